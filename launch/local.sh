# launch_tpu.sh local: a cluster of processes on this machine's CPU, as jax.distributed sees it.
# shellcheck shell=bash disable=SC2154 # the variables of launch_tpu.sh

declare -A place=() # process id -> number; each process leads a group of its own
signalled=0 killer=""

here() {
  local i port folder program code=0 result=0 ended tee
  ((!dry)) || wrong "--dry-run: local calls no gcloud."
  [[ $processes =~ ^[1-9][0-9]?$ ]] || wrong "--processes=$processes: local needs a number from 1 to 99."
  [[ ! $devices || $devices != 0 ]] || wrong "--devices=0: this must be at least 1."
  program=${PYTHON:-.venv/bin/python}
  [[ ${PYTHON-} || -x $program ]] || program=python3
  command -v "$program" >/dev/null || wrong "there is no Python at $program: make test makes .venv, or set PYTHON."
  port=$(free_port)
  folder=$(mktemp -d "${TMPDIR:-/tmp}/launch_local.XXXXXX")
  say "$processes processes, coordinator localhost:$port, logs in $folder"

  set -m # job control: process groups, and SIGINT not ignored
  trap clean EXIT
  trap 'pass TERM' TERM HUP
  trap 'pass INT' INT
  exec 4> >(trap '' INT TERM HUP && exec tee "$folder/0.log")
  tee=$!
  environment=(JAX_PLATFORMS=cpu "JAX_COORDINATOR_ADDRESS=localhost:$port" "JAX_NUM_PROCESSES=$processes" "${environment[@]}")
  [[ ! $devices ]] || environment+=("XLA_FLAGS=${XLA_FLAGS-} --xla_force_host_platform_device_count=$devices")
  for ((i = 0; i < processes; i++)); do
    if ((i)); then exec 5>"$folder/$i.log"; else exec 5>&4; fi
    (
      export "${environment[@]}" "JAX_PROCESS_ID=$i" # and not as arguments of env, which all may see
      exec "$program" -u -m reasoning_jax.main "${arguments[@]}"
    ) </dev/null >&5 2>&1 3>&- 4>&- 5>&- &
    place[$!]=$i
  done
  exec 4>&- 5>&-

  while ((${#place[@]})); do
    wait -n "${!place[@]}" 2>/dev/null || true # or a signal comes, and is passed on
    for ended in "${!place[@]}"; do
      ! kill -0 "$ended" 2>/dev/null || continue
      code=0 i=${place[$ended]}
      wait "$ended" || code=$?
      kill -KILL -- "-$ended" 2>/dev/null || true # what it left behind
      unset "place[$ended]"
      ((code && !result)) || continue
      result=$code
      ((!signalled)) || continue
      printf 'launch_tpu.sh: process %s of %s ended with exit code %s; its last lines:\n' "$i" "$processes" "$code" >&2
      tail -n 20 "$folder/$i.log" | sed 's/^/  /' >&2
      pass TERM
    done
  done
  wait "$tee" 2>/dev/null || true
  exit "$result"
}

# Passes a signal on; what has not ended after a while, or at a second signal, is killed.
pass() {
  local process
  if ((signalled++)); then
    for process in "${!place[@]}"; do kill -KILL -- "-$process" 2>/dev/null || true; done
    return 0 # and not what was interrupted
  fi
  for process in "${!place[@]}"; do kill "-$1" "$process" 2>/dev/null || true; done
  (
    trap - EXIT TERM INT HUP
    sleep "${LAUNCH_GRACE:-120}"
    kill -TERM $$
  ) >/dev/null 2>&1 3>&- &
  killer=$!
  disown "$killer"
}

# Nothing is left running, however this ends.
clean() {
  local process
  for process in $killer "${!place[@]}"; do kill -KILL -- "-$process" 2>/dev/null || true; done
}

# A port that nobody listens on, below those that the system gives out by itself.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)) && (exec 6<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}
