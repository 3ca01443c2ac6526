# gcloud, as launch_tpu.sh uses it: every call goes through `does`, which with --dry-run prints it instead.
# shellcheck shell=bash disable=SC2154 # the variables of launch_tpu.sh

state="" reason="" nodes=() # nodes: the names of the slices' TPU VMs, each of which has `hosts` workers
remote="bash reasoning_jax/launch/worker.sh"

quoted() {
  local word line=""
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Does it or, with --dry-run, prints it. What gcloud says on standard error is kept for `error`.
does() { if ((dry)); then quoted "$@" >&3; else "$@" </dev/null; fi; }
tpus() { does gcloud compute tpus "$@" "--zone=$zone" ${project:+"--project=$project"} --quiet 2>"$scratch/${stderr:-stderr}"; }
error() {
  { grep ERROR "$scratch/stderr" || cat "$scratch/stderr"; } | tr '\n' ' ' | printable | cut -c1-400 | sed 's/[. ]*$//'
}
printable() { tr -d '\000-\010\013-\037\177'; } # what others say must not move the cursor
# What gcloud says is a number, or 0: in (( )) bash would run a command that such a text holds.
number() { if [[ $1 =~ ^[1-9][0-9]{0,5}$ ]]; then echo "$1"; else echo 0; fi; }

prepare() {
  scratch=.cache/launch_tpu/$name/$command # of its own, so that `status` may be asked beside `babysit`
  mkdir -p "$scratch"
  if ((dry)); then
    dry_mark="# " dry_state=ACTIVE # what would be answered
    [[ ! $command =~ ^(create|babysit)$ ]] || dry_state=NONE
    [[ $type || ! $command =~ ^(setup|run|logs)$ ]] || say "without --type one worker is assumed"
    return
  fi
  command -v gcloud >/dev/null || wrong "gcloud is not installed: see https://cloud.google.com/sdk/docs/install."
  [[ ${CLOUDSDK_AUTH_ACCESS_TOKEN_FILE-} ]] ||
    [[ $(gcloud auth list --filter=status:ACTIVE '--format=value(account)' 2>"$scratch/stderr") ]] ||
    wrong "gcloud is not logged in: run gcloud auth login."
}

# Sets state (NONE: there is no such request; UNKNOWN: no answer), reason and nodes.
look() {
  local answer count i wanted=state.state,tpu.nodeSpec[0].multisliceParams.nodeCount,state.failedData.error.message
  if answer=$(tpus queued-resources describe "$name" "--format=value[separator=\",\"]($wanted)"); then
    ((!dry)) || answer="$dry_state,$((slices > 1 ? slices : 0)),"
  elif grep -qi 'not.found' "$scratch/stderr"; then
    answer=NONE
  else
    answer=UNKNOWN
  fi
  IFS=, read -r state count reason <<<"$answer"
  count=$(number "$count")
  nodes=("$name")
  if ((count > 1)); then
    nodes=()
    for ((i = 0; i < count; i++)); do nodes+=("$name-$i"); done
  fi
}

# Sets hosts and node_state: READY where every node is, else the state of the first that is not.
look_at_nodes() {
  local node answer health count
  node_state=READY
  for node in "${nodes[@]}"; do
    answer=$(tpus tpu-vm describe "$node" '--format=value[separator=","](state,health,networkEndpoints.len())') ||
      answer=UNKNOWN,,
    ((!dry)) || answer="READY,HEALTHY,$hosts"
    IFS=, read -r answer health count <<<"$answer"
    count=$(number "$count")
    [[ $command != status ]] || say "$node: $answer, ${health:-health unknown}, $count workers"
    [[ $answer != READY ]] || ((count)) || answer=STARTING # no address yet: to go on would be to ask nobody
    [[ $answer == READY ]] || { node_state=$answer && return; }
    hosts=$count
  done
}

need() {
  look
  [[ $state != UNKNOWN ]] || die "gcloud cannot say whether $name is there: $(error)."
  [[ $state == ACTIVE ]] || die "$name in $zone is not there: its state is $state${reason:+ ($reason)}."
  look_at_nodes
  [[ $node_state == READY ]] || die "$name is not ready: its state is $node_state."
}

# everywhere COMMAND: on all workers at once. Sets answers ("NODE WORKER LINE") and, returning 1, failure.
everywhere() {
  local node worker line
  answers=() failure=""
  for node in "${nodes[@]}"; do
    does rm -rf "$scratch/$node" && does mkdir -p "$scratch/$node"
    if ((dry)); then on_workers "$node" "$1"; else on_workers "$node" "$1" >/dev/null & fi
  done
  wait
  ((!dry)) || return 0
  for node in "${nodes[@]}"; do
    for ((worker = 0; worker < hosts; worker++)); do
      line=$(grep . "$scratch/$node/$worker.log" 2>/dev/null | tail -n 1 | printable) || line="no answer by ssh"
      answers+=("$node $worker ${line#launch: }")
      [[ $line == "launch: "* && $line != "launch: error"* ]] ||
        failure=${failure:-"worker $worker of $node: ${line#launch: error: }"}
    done
  done
  [[ ! $failure ]]
}

# on_workers NODE COMMAND: by ssh on all workers of a node; what worker 3 says is in $scratch/NODE/3.log.
on_workers() {
  local stderr=$1.stderr
  tpus tpu-vm ssh "$1" --worker=all "--command=$2" "--output-directory=$scratch/$1" --ssh-flag=-oServerAliveInterval=30
}

# What to run, as a file that nobody else can read, here and on the workers: --env may hold keys, and all may list processes.
send_command() {
  local words node file=$scratch/command
  words=$(printf '%s\0' "${environment[@]}" -- "${arguments[@]}" | base64 | tr -d '\n') # no quote is lost on the way
  does rm -f "$file"
  if ((dry)); then
    printf '(umask 077 && echo %s >%s)\n' "$words" "$file" >&3
  else
    (umask 077 && echo "$words" >"$file")
  fi
  for node in "${nodes[@]}"; do
    tpus tpu-vm scp "$file" "$node:reasoning_jax_command" --worker=all ||
      die "what to run could not be sent to $node: $(error)."
  done
  does rm -f "$file"
}
