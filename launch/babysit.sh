# launch_tpu.sh babysit: until the run is finished on all workers, describe, ask, and create, set up and run what is not there.
# shellcheck shell=bash disable=SC2154 # the variables of launch_tpu.sh

babysit() {
  local starts=0 unclear=0 before="" code child=""
  check_workdir $((hosts * slices)) # before anything is paid for
  pack
  trap leave INT TERM HUP
  while :; do
    verdict
    if ((!starts)); then # how a run ended that was begun by somebody else says nothing about this one
      case $now in running) starts=1 ;; finished | failed) now=idle ;; esac
    fi
    case $now in
      running) unclear=0 ;;
      finished) say "the run is finished; $name is still there and costs money (launch_tpu.sh delete)." && return ;;
      unclear) ((++unclear < ${LAUNCH_PATIENCE:-60})) || die "nobody can say what became of $name: ${failure:-$(error)}." ;;
      none | lost | idle | failed)
        unclear=0
        ((!starts)) || say "$name: $now${failure:+ ($failure)}"
        [[ $now != failed ]] || blame
        if ((starts++ > retries)); then
          [[ $now != lost ]] || (delete) || true
          die "gave up after $retries retries: $name was $now${failure:+ ($failure)}."
        fi
        code=0
        begin & # a child, so that its `die` is not the end of this
        child=$!
        wait "$child" || code=$?
        child=""
        ((code != 2)) || exit 2
        ((!dry)) || return 0
        ;;
    esac
    pause
  done
}

begin() {
  if [[ $now != failed ]]; then # else all is there still
    [[ $now != lost ]] || delete
    create
    setup
  fi
  start
}

leave() {
  if [[ $child ]]; then
    kill -TERM "$child" || true
    wait "$child" || true # it may have a request to delete
  fi
  die "stopped watching $name; what runs there goes on."
}

# The same words again after a short time are a mistake of the user's, and no second retry will help; a signal's code is not.
blame() {
  everywhere "$remote stop" || true # workers that wait for the one that failed
  [[ $blamed != "$before" ]] || ((exit_code >= 128 || seconds > ${LAUNCH_QUICK:-300})) ||
    die "the run failed twice in the same way and is not tried again: $blamed."
  before=$blamed
}

# Sets now: none | lost | unclear | idle (nothing was started) | running | finished | failed (blamed, exit_code, seconds).
verdict() {
  local answer node worker word value time number='^(0|[1-9][0-9]{0,8})$'
  now=finished failure="" blamed="" exit_code=0 seconds=0
  look
  case $state in
    ACTIVE) ;;
    UNKNOWN) now=unclear && return ;;
    FAILED | SUSPEND*) now=lost failure=$state && return ;;
    *) now=none && return ;; # or still in the queue: create waits for it
  esac
  look_at_nodes
  case $node_state in
    READY) ;;
    UNKNOWN | CREATING | STARTING | RESTARTING | REPAIRING) now=unclear failure="it is $node_state" && return ;;
    *) now=lost failure=$node_state && return ;;
  esac
  everywhere "$remote check" || true
  ((${#answers[@]})) || now=unclear
  for answer in "${answers[@]}"; do
    read -r node worker word value time answer <<<"$answer"
    # In (( )) bash would run a command that such a text holds.
    [[ $word != exit || ($value =~ $number && $time =~ $number) ]] || word=unclear
    case $now,$word,$value in
      failed,* | *,exit,0) ;;
      finished,running,*) now=running ;;
      *,running,*) ;;
      *,exit,*) now=failed exit_code=$value seconds=$time blamed="exit code $value on worker $worker of $node: ${answer#| }" ;;
      *,gone,*) now=failed exit_code=137 blamed="the process on worker $worker of $node is gone" ;;
      *,no,answer | *,unclear,*) now=unclear ;;
      *) [[ $now == unclear ]] || now=idle ;;
    esac
  done
  failure=${blamed:-$failure}
}
