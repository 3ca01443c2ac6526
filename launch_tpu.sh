#!/usr/bin/env bash
usage() {
  cat <<'END'
Runs reasoning_jax on a slice of Cloud TPU, from your own machine.

  launch_tpu.sh create  --name N --zone Z --type v5e-16 [--spot] [--slices 2]   ask for a slice and wait for it
  launch_tpu.sh setup   --name N --zone Z                                       send the tracked files, install, compare
  launch_tpu.sh run     --name N --zone Z --workdir gs://B/D -- --config=configs/X.py [--config.a.b=c ...]
  launch_tpu.sh status | logs | stop | delete  --name N --zone Z
  launch_tpu.sh babysit (the flags of create) --workdir gs://B/D [--retries 10] -- ARGUMENTS
                        create, setup and run; again after a preemption or a failure; ends when the run is finished
  launch_tpu.sh local   --processes 4 [--devices D] [--workdir D] -- ARGUMENTS  a cluster of processes on this CPU

--project P      default: gcloud's            --version V   the runtime version; default: the one for the type
--env K=V        for the run; repeatable      --worker W    logs: which worker's (default 0), or "all"
--timeout S      how long create waits (default 3600; 0: for ever). It then deletes its request, unless --keep is given.
--dry-run        print the gcloud lines, to be pasted, and do nothing

The same `run` again resumes a run. Types: v2-8 v3-8 v4-8 v5p-8 and larger count cores, two a chip; v5litepod-16 (or v5e-16)
and v6e-16 count chips. Relative paths are relative to this folder.
END
}
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec 3>&1 # where --dry-run prints, also inside $(...)

say() { printf '%s\n' "${dry_mark-}$*"; }
die() { # SENTENCE [EXIT CODE]; 2 where trying again cannot help
  printf 'launch_tpu.sh: %s\n' "$1" >&2
  [[ ! $nap ]] || kill "$nap" 2>/dev/null || true
  exit "${2-1}"
}
wrong() { die "$1" 2; }
nap=""
for setting in LAUNCH_PATIENCE LAUNCH_QUICK; do
  [[ ${!setting-0} =~ ^(0|[1-9][0-9]{0,8})$ ]] || wrong "$setting=${!setting}: this must be a whole number."
done
for setting in LAUNCH_GRACE LAUNCH_POLL; do
  [[ ${!setting-0} =~ ^[0-9]{1,8}([.][0-9]+)?$ ]] || wrong "$setting=${!setting}: this must be a number of seconds."
done
pause() { # in the background, so that a signal need not wait
  sleep "${LAUNCH_POLL:-30}" >/dev/null 2>&1 3>&- &
  nap=$!
  wait "$nap" || true
  nap=""
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || wrong "this needs bash 4.4 or newer, and this is $BASH_VERSION."

# ---- the command line -------------------------------------------------------------------------------------------------

command=${1-} name="" zone="" project="" type="" version="" spot=0 slices=1 workdir="" retries=10 worker=0
timeout=3600 keep=0 dry=0 allow_local=0 processes="" devices="" environment=() arguments=() hosts=1 meaning=""

parse() {
  case $command in
    create | setup | run | logs | status | stop | delete | babysit | local) shift ;;
    "" | help | -h | --help) usage && exit ;;
    *) wrong "there is no command $command: it is create, setup, run, logs, status, stop, delete, babysit or local." ;;
  esac
  local flag
  while (($#)); do
    flag=$1 && shift
    case $flag in
      --) arguments=("$@") && break ;;
      --spot) spot=1 && continue ;;
      --keep) keep=1 && continue ;;
      --dry-run) dry=1 && continue ;;
      -h | --help) usage && exit ;;
      --*=*) set -- "${flag#*=}" "$@" && flag=${flag%%=*} ;;
      --*) ;;
      *) wrong "$flag belongs to no flag; the arguments of the run come after --." ;;
    esac
    case $flag in
      --name | --zone | --project | --type | --version | --workdir) ;;
      --slices | --retries | --timeout | --processes | --devices)
        [[ ${1-} =~ ^(0|[1-9][0-9]{0,8})$ ]] || wrong "$flag=${1-}: this must be a whole number." ;;
      --env) [[ ${1-} =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || wrong "--env=${1-}: this must be NAME=VALUE." ;;
      --worker) [[ ${1-} =~ ^([0-9]+|all)$ ]] || wrong "--worker=${1-}: this must be a number or \"all\"." ;;
      *) wrong "there is no flag $flag; launch_tpu.sh --help shows those there are." ;;
    esac
    [[ ${1-} ]] || wrong "$flag needs a value."
    if [[ $flag == --env ]]; then environment+=("$1"); else printf -v "${flag#--}" %s "$1"; fi
    shift
  done
  case $command in run | babysit | local) workdir_of_run ;; *)
    ((!${#arguments[@]})) || wrong "$command takes no arguments after --: they are for run, babysit and local." ;;
  esac
  [[ $command == local ]] && return
  [[ $name ]] || wrong "--name is missing: it names the slice."
  [[ $name =~ ^[a-z]([-a-z0-9]{0,56}[a-z0-9])?$ ]] || wrong "--name=$name: this must be lower-case letters, digits and hyphens."
  [[ $zone ]] || wrong "--zone is missing: it says where the slice is, such as us-central2-b."
  ((slices)) || wrong "--slices=0: this must be at least 1."
  [[ $type || ! $command =~ ^(create|babysit)$ ]] || wrong "--type is missing: it says what to create, such as v5e-16."
  [[ ! $type ]] || check_type
}

# --workdir is a flag here or among the run's arguments; afterwards it is in both.
workdir_of_run() {
  ((${#arguments[@]})) || wrong "what to run is missing: give the arguments of python -m reasoning_jax.main after --."
  local i given=""
  for i in "${!arguments[@]}"; do
    [[ ! ${arguments[i]} =~ ^--?workdir=(.*)$ ]] || given=${BASH_REMATCH[1]}
    [[ ! ${arguments[i]} =~ ^--?workdir$ ]] || given=${arguments[i + 1]-}
    [[ ! ${arguments[i]} =~ ^--?allow_local_workdir(=[Tt]rue)?$ ]] || allow_local=1
  done
  [[ ! $workdir || ! $given ]] || wrong "--workdir is given twice: $workdir and $given."
  [[ ! $workdir ]] || arguments+=("--workdir=$workdir")
  workdir=$workdir$given
  [[ $workdir ]] || wrong "--workdir is missing: it names the run's folder, gs://BUCKET/FOLDER on several hosts."
}

# The type by gcloud's name, the image for it, and the hosts that a slice should have (--dry-run cannot ask).
check_type() {
  local size=${type##*-} kind=${type%-*} chips="" unit=chips most=12288
  [[ $kind != v5e ]] || kind=v5litepod
  case $kind,$size in
    v2,* | v3,*) [[ ! $size =~ ^(8|32|128|256|512)$ && $type != v3-1024 && $type != v3-2048 ]] || chips=$((size / 2)) ;;
    v4,* | v5p,*)
      [[ $kind == v4 ]] && most=4096
      [[ ! $size =~ ^[1-9][0-9]{0,4}$ ]] || ((size % 8 || size > most)) || chips=$((size / 2))
      ;;
    v5litepod,* | v6e,*) [[ ! $size =~ ^(1|4|8|16|32|64|128|256)$ ]] || chips=$size ;;
  esac
  [[ $chips ]] || wrong "--type=$type is none; valid are v2-8 to v2-512, v3-8 to v3-2048, v4-8 to v4-4096 and v5p-8 to \
v5p-12288 (cores, in multiples of 8), and v5litepod- (or v5e-) and v6e- with 1, 4, 8, 16, 32, 64, 128 or 256 (chips)."
  case $kind in v5litepod | v6e) hosts=$((chips > 8 ? chips / 4 : 1)) ;; *) hosts=$(((chips + 3) / 4)) unit=cores ;; esac
  case $kind in
    v5litepod) version=${version:-v2-alpha-tpuv5-lite} ;;
    v5p) version=${version:-v2-alpha-tpuv5} ;;
    v6e) version=${version:-v2-alpha-tpuv6e} ;;
    *) version=${version:-tpu-ubuntu2204-base} ;;
  esac
  type=$kind-$size meaning="$kind counts $unit: $chips chips a slice"
}

# ---- the commands -----------------------------------------------------------------------------------------------------

create() {
  look
  while [[ $state == DELETING ]]; do pause && look; done
  case $state in
    NONE) ;;
    ACTIVE) say "$name is there." && return ;;
    UNKNOWN) die "gcloud cannot say whether $name is there: $(error)." ;;
    FAILED | SUSPEND*) die "$name is there and $state${reason:+ ($reason)}: delete it first." ;;
    *) keep=1 && wait_until_active && return ;; # another's request, to be waited for
  esac
  local what=("--node-id=$name") sort=()
  ((slices == 1)) || what=("--node-count=$slices" "--node-prefix=$name")
  ((!spot)) || sort=(--spot)
  say "asking for $name: $slices x $type ($meaning), runtime $version, in $zone"
  tpus queued-resources create "$name" "${what[@]}" "--accelerator-type=$type" "--runtime-version=$version" "${sort[@]}" ||
    die "gcloud did not take the request for $name: $(error)."
  dry_state=ACTIVE
  wait_until_active
}

wait_until_active() {
  local told="" begun=$SECONDS
  trap 'give_up "interrupted"' INT TERM HUP
  while :; do
    look
    case $state in
      ACTIVE) break ;;
      FAILED | SUSPEND* | DELETING | NONE) give_up "$name is $state${reason:+ ($reason)}" ;;
    esac
    [[ $state == "$told" ]] || say "$name: $state" && told=$state
    ((!timeout || SECONDS - begun < timeout)) || give_up "$name is still $state after $timeout s"
    pause
  done
  trap - INT TERM HUP
  ((dry)) || say "$name: ACTIVE"
}

# Nothing is left in the queue that might cost money later.
give_up() {
  trap '' INT TERM HUP
  ((!keep)) || die "$1; the request stays (launch_tpu.sh delete ends it)."
  tpus queued-resources delete "$name" --force || die "$1; and the request could not be deleted: $(error)."
  die "$1; the request was deleted (--keep leaves it)."
}

# The tracked files with their uncommitted changes; `babysit` does it once, so that a run goes on with the code it began with.
pack() {
  local commit=HEAD extra
  git rev-parse --verify --quiet HEAD >/dev/null || wrong "$PWD is no git checkout: what to send is what git tracks."
  ((dry)) || commit=$(git stash create) && commit=${commit:-HEAD}
  does git archive --format=tar.gz "--output=$scratch/tree.tar.gz" "$commit"
  extra=$(git ls-files --others --exclude-standard | head -n 3 | tr '\n' ' ')
  [[ ! $extra ]] || say "not sent, as git does not track it (git add): $extra"
}

setup() {
  local node worker first="" line
  need
  for node in "${nodes[@]}"; do
    for ((worker = 0; worker < hosts; worker++)); do # each accepts its keys once, which must not happen all at once
      tpus tpu-vm ssh "$node" "--worker=$worker" --command=true ||
        die "worker $worker of $node cannot be reached by ssh: $(error)."
    done
    tpus tpu-vm scp "$scratch/tree.tar.gz" "$node:reasoning_jax.tar.gz" --worker=all ||
      die "the tree could not be sent to $node: $(error)."
  done
  say "setting up $((hosts * ${#nodes[@]})) workers: a few minutes the first time"
  everywhere "mkdir -p reasoning_jax && tar -xzf reasoning_jax.tar.gz -C reasoning_jax launch && $remote setup" ||
    die "$failure."
  for line in "${answers[@]}"; do
    read -r node worker line <<<"$line"
    first=${first:-$line}
    [[ $line == "$first" ]] || die "worker $worker of $node is not like the first: $line, there $first."
  done
  ((dry)) || say "all workers are alike: ${first#ok }"
}

run() {
  need
  check_workdir $((hosts * ${#nodes[@]}))
  start
  ((dry)) || say "running on $((hosts * ${#nodes[@]})) workers; launch_tpu.sh logs follows worker 0"
}

start() {
  local why
  send_command
  everywhere "$remote start" && return
  why=$failure
  everywhere "$remote stop same" || true # what did start waits for the others for ever
  die "the run did not start: $why."
}

check_workdir() { # HOSTS
  (($1 == 1 || allow_local)) || [[ $workdir == gs://* ]] ||
    wrong "--workdir=$workdir: on $1 hosts this must be on gs://, or be a network file system with --allow_local_workdir."
}

logs() {
  need
  local node
  [[ $worker == all ]] || { log "${nodes[0]}" "$worker" "" && return; }
  for node in "${nodes[@]}"; do
    if ((dry)); then log "$node" all "$node"; else log "$node" all "$node" & fi
  done
  wait
}
log() { # NODE WORKER LABEL
  tpus tpu-vm ssh "$1" "--worker=$2" "--command=$remote logs $3" --ssh-flag=-oServerAliveInterval=30 ||
    die "the log of worker $2 of $1 cannot be read: $(error)."
}

status() {
  look
  [[ $state != NONE ]] || die "there is no $name in $zone."
  [[ $state != UNKNOWN ]] || die "gcloud cannot say whether $name is there: $(error)."
  say "$name: $state${reason:+ ($reason)}"
  [[ $state == ACTIVE ]] || return 0
  look_at_nodes
  [[ $node_state == READY ]] || return 0
  everywhere "$remote check" || true
  ((!${#answers[@]})) || printf '%s\n' "${answers[@]}"
}

stop() {
  need
  everywhere "$remote stop" || die "$failure."
  ((!${#answers[@]})) || printf '%s\n' "${answers[@]}"
}

delete() {
  tpus queued-resources delete "$name" --force || die "$name was not deleted: $(error)."
  ((dry)) || say "$name is deleted."
}

# ---- begin ------------------------------------------------------------------------------------------------------------

parse "$@"
if [[ $command == local ]]; then
  # shellcheck source=launch/local.sh
  source launch/local.sh
  here
fi
# shellcheck source=launch/gcloud.sh
source launch/gcloud.sh
prepare
case $command in
  create) create ;;
  setup) pack && setup ;;
  run) run ;;
  logs) logs ;;
  status) status ;;
  stop) stop ;;
  delete) delete ;;
  babysit)
    # shellcheck source=launch/babysit.sh
    source launch/babysit.sh
    babysit
    ;;
esac
exit # the file may be another by now
