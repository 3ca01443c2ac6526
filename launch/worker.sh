#!/usr/bin/env bash
# What launch_tpu.sh has done on each worker of a slice. The last line of every answer begins with "launch: ".
#
#   worker.sh setup | start | check | stop [same] | logs [LABEL]
#
# The tree is in ~/reasoning_jax; ~/reasoning_jax_run holds the virtual environment, the log, the process id, the exit code
# and the command that runs; ~/reasoning_jax_command is the command that was sent last (see `start`). Every action may be
# sent twice: gcloud repeats one when it loses the connection.
set -euo pipefail

tree=$HOME/reasoning_jax state=$HOME/reasoning_jax_run sent=$HOME/reasoning_jax_command
lock=${LAUNCH_LOCK:-/tmp/libtpu_lockfile}
grace=${LAUNCH_GRACE:-180} # seconds from SIGTERM to SIGKILL: a large checkpoint takes a while

ok() { echo "launch: ok $*"; }
fail() {
  echo "launch: error: $*"
  exit 1
}

# Whether the run's process lives; sets pid. A process id alone may be another's since a reboot.
alive() {
  pid=$(cat "$state/pid" 2>/dev/null) && [[ $pid ]] && grep -qaF reasoning_jax.main "/proc/$pid/cmdline" 2>/dev/null
}

# Whether the run's process lives. Between its end and the note of its exit code lies a moment: waits, while somebody is there
# to write it.
settle() {
  local noting
  while ! alive; do
    [[ ! -f $state/exit ]] || return 1
    noting=$(cat "$state/noting" 2>/dev/null) && grep -qaF supervise "/proc/${noting:-none}/cmdline" 2>/dev/null || return 1
    sleep 0.1
  done
}

# Unpacks ~/reasoning_jax.tar.gz and installs what it needs; ends with hashes of what is there now, to be compared.
setup() {
  ! alive || fail "a run is alive (process $pid); stop it before setting up"
  mkdir -p "$tree" "$state"
  chmod 700 "$state"
  # What an earlier tree had and this one has not must go, but nothing else: a run's folder may be among it.
  [[ ! -f $state/files ]] || (cd "$tree" && xargs -d '\n' rm -f -- <"$state/files")
  tar -xzf "$HOME/reasoning_jax.tar.gz" -C "$tree" || fail "the tree does not unpack"
  tar -tzf "$HOME/reasoning_jax.tar.gz" | grep -v '/$' >"$state/files"
  local requirements freeze python
  requirements=$(sha256sum <"$tree/requirements.txt" | cut -c1-12)
  python=$state/venv/bin/python
  if [[ $(cat "$state/installed" 2>/dev/null) != "$requirements" ]]; then
    rm -f "$state/installed"
    install_packages >"$state/setup.log" 2>&1 || fail "the installation failed: $(grep . "$state/setup.log" | tail -n 1)"
    echo "$requirements" >"$state/installed"
  fi
  freeze=$({ "$python" --version && "$python" -m pip freeze; } | LC_ALL=C sort | sha256sum | cut -c1-12)
  ok "tree=$(sha256sum <"$HOME/reasoning_jax.tar.gz" | cut -c1-12) requirements.txt=$requirements packages=$freeze"
}

# A virtual environment with Python 3.11 or newer. Images of TPU VMs have 3.10: there uv brings one.
install_packages() {
  local name found=""
  for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then found=$name && break; fi
  done
  if [[ $found ]]; then
    "$found" -m venv --clear "$state/venv" || return 1
  else
    PATH=$HOME/.local/bin:$PATH
    command -v uv || curl -LsSf https://astral.sh/uv/install.sh | sh || return 1
    uv venv --clear --seed --python 3.12 "$state/venv" || return 1
  fi
  "$state/venv/bin/python" -m pip install --disable-pip-version-check --upgrade -r "$tree/requirements.txt" 'jax[tpu]' gcsfs
}

# Starts the run that was sent: base64 of words that end in NUL, which are K=V ..., "--", the arguments of main. So no quote is
# lost; and it is a file of this user's alone, as all may see the arguments of a process, and K=V may be a key.
start() {
  [[ -x $state/venv/bin/python && -f $tree/launch/worker.sh ]] || fail "this worker is not set up"
  [[ -f $sent ]] || fail "what to run was not sent to this worker"
  chmod 600 "$sent"
  if alive; then
    same || fail "another run is alive (process $pid); stop it first"
    ok "already running, process $pid" && return
  fi
  settle || true # else the note of the run before could be taken for that of this one
  rm -f "$state/pid" "$state/exit" "$state/noting" "$state/command"
  (umask 077 && cp "$sent" "$state/command")
  nohup setsid bash "$tree/launch/worker.sh" supervise </dev/null >>"$state/log" 2>&1 &
  for _ in {1..100}; do
    if alive || [[ -f $state/exit ]]; then ok "started, process $(cat "$state/pid")" && return; fi
    sleep 0.1
  done
  fail "the run did not start: $(tail -n 1 "$state/log")"
}

# Whether what runs is what was sent last.
same() { [[ $(cat "$state/command") == "$(cat "$sent")" ]]; }

# Runs the program and writes "exit-code seconds" when it ends.
supervise() {
  local words=() code=0
  echo $$ >"$state/noting"
  mapfile -d '' -t words < <(base64 -d <"$state/command")
  cd "$tree"
  # Left in ~/.bashrc, these make every worker believe that it is alone, or compute on its CPU.
  [[ ! ${TPU_SKIP_MDS_QUERY+set} ]] || { unset TPU_SKIP_MDS_QUERY && echo "launch: TPU_SKIP_MDS_QUERY was set here; unset"; }
  [[ ${JAX_PLATFORMS-} != cpu ]] || { unset JAX_PLATFORMS && echo "launch: JAX_PLATFORMS=cpu was set here; unset"; }
  while [[ ${words[0]} != -- ]]; do export "${words[0]}" && words=("${words[@]:1}"); done
  echo "launch: $(date -u +%FT%TZ) python -m reasoning_jax.main ${words[*]:1}"
  SECONDS=0
  (echo "$BASHPID" >"$state/pid" && exec "$state/venv/bin/python" -u -m reasoning_jax.main "${words[@]:1}") || code=$?
  echo "$code $SECONDS" >"$state/exit.tmp" && mv "$state/exit.tmp" "$state/exit"
}

# running PID | exit CODE SECONDS | gone (killed, or the machine was restarted) | none; then the last line of the log.
check() {
  local now=none last
  if settle; then # asked once: it may end between two questions
    now="running $pid"
  elif [[ -f $state/exit ]]; then
    now="exit $(cat "$state/exit")"
  elif [[ -f $state/pid ]]; then
    now=gone
  fi
  last=$(tail -n 50 "$state/log" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1) || true
  echo "launch: $now | $last"
}

# SIGTERM, so that the program saves; SIGKILL where it does not end; then the lock of a process that is no more. With
# "same": only if what runs is what was sent last.
stop() {
  local said="nothing ran here" group holder i
  if alive && { [[ ${1-} != same ]] || same; }; then
    said="process $pid ended" group=$(ps -o pgid= -p "$pid" | tr -d ' ')
    kill -TERM "$pid" 2>/dev/null || true
    for ((i = 0; i < grace * 10; i++)); do alive || break; sleep 0.1; done
    if alive; then kill -KILL "$pid" && said="process $pid had to be killed"; fi
    settle || true
    kill -KILL -- "-$group" 2>/dev/null || true                           # workers that the program left behind
  fi
  if [[ -e $lock ]]; then
    holder=$(root find /proc/[0-9]*/fd -lname "$lock" 2>/dev/null | head -n 1 | cut -d/ -f3) || true
    if [[ $holder ]]; then
      said+="; $lock is held by process $holder ($(tr '\0' ' ' <"/proc/$holder/cmdline" | cut -c1-80))"
    else
      root rm -f "$lock" && said+="; removed a stale $lock"
    fi
  fi
  ok "$said"
}

# As root where that needs no password: the lock may be another user's.
root() { if ((EUID)) && sudo -n true 2>/dev/null; then sudo -n "$@"; else "$@"; fi; }

# Follows the log until the run ends; with a label, before every line.
logs() {
  [[ -f $state/log ]] || { ok "there is no log: nothing was run on this worker" && return; }
  local follow=(tail -n 100)
  ! alive || follow+=(-F "--pid=$pid")
  "${follow[@]}" "$state/log" | sed -u "s|^|${1:+[$1 ${HOSTNAME##*-w-}] }|"
}

case ${1-} in
  setup) setup ;;
  start) start ;;
  supervise) supervise ;;
  check) check ;;
  stop) stop "${2-}" ;;
  logs) logs "${2-}" ;;
  *) fail "worker.sh setup | start | check | stop [same] | logs [LABEL]" ;;
esac
exit # the file may be another by now
