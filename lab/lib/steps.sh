# shellcheck shell=bash
# Runs named steps: each is skipped when what it makes is there, timed, logged to a file, and heard from every 15 seconds.
#
# A step NAME is two functions: `NAME_ready` succeeds (printing one word, why) when nothing is to be done, `NAME_make` does it.

HEARTBEAT_SECONDS=15
FAILURE_LINES=30
declare -A STEP_TITLE STEP_NUMBER
STEP_COUNT=0
TRACKS=()
MAIN_PID=$$

plan_step() {
  STEP_COUNT=$((STEP_COUNT + 1))
  STEP_NUMBER[$1]=$STEP_COUNT
  STEP_TITLE[$1]=$2
}

# Asked of the kernel, as bash keeps the first answer, and a killed process that nobody reaps still takes signals.
parent_of() { awk '{ print $4 }' "/proc/$1/stat"; }

step_line() {
  local dots=........................................................
  printf '[%2d/%d] %s %s %s\n' "${STEP_NUMBER[$1]}" "$STEP_COUNT" "${STEP_TITLE[$1]}" "${dots:${#STEP_TITLE[$1]}}" "$2"
}

step_failed() {
  step_line "$1" FAILED
  {
    say "--- last lines of $2:"
    tail -n "$FAILURE_LINES" "$2"
    say "--- ${STEP_TITLE[$1]} failed; the whole log: $2"
  } >&2
}

# One step at a time in this shell. Never called inside a condition: that would switch off `set -e` within the step.
run_step() {
  local name=$1 log=$LOGS/$1.log started=$SECONDS beat=$((SECONDS + HEARTBEAT_SECONDS)) why body status=0
  local track=$BASHPID
  mkdir -p "$LOGS"
  if why=$("${name}_ready" 2> /dev/null); then
    step_line "$name" "${why:-cached}"
    return
  fi
  # A new file: what an earlier run has left behind may still write to the old one.
  rm -f "$log"
  (set -euo pipefail && "${name}_make") > "$log" 2>&1 < /dev/null &
  body=$!
  while kill -0 "$body" 2> /dev/null; do
    # Our parent was killed without a chance to stop us: end this whole track, the next `up` takes over.
    [[ $(parent_of "$track") == "$MAIN_PID" ]] || kill -TERM 0
    if ((SECONDS >= beat)); then
      beat=$((SECONDS + HEARTBEAT_SECONDS))
      printf '        %s: %s so far (%s)\n' "${STEP_TITLE[$name]}" "$(duration $((SECONDS - started)))" \
        "$(tail -n 1 "$log" | tr -d '\r\0' | cut -c1-70)"
    fi
    sleep 0.2
  done
  wait "$body" || status=$?
  if ((status != 0)); then
    step_failed "$name" "$log"
    exit 1
  fi
  step_line "$name" "$(duration $((SECONDS - started)))"
}

# run_tracks "a b c" "d e": the steps of one track run one after another, the tracks beside each other.
run_tracks() {
  local track step status=0 finished
  TRACKS=()
  for track in "$@"; do
    set -m # a process group of its own, so that a track ends with all it started
    (
      trap - INT TERM
      for step in $track; do run_step "$step"; done
    ) < /dev/null &
    TRACKS+=("$!")
    set +m
  done
  for ((finished = 0; finished < $#; finished++)); do
    wait -n || status=$?
    if ((status != 0)); then
      stop_tracks
      exit "$status"
    fi
  done
  TRACKS=()
}

stop_tracks() {
  local track
  for track in "${TRACKS[@]}"; do kill -TERM -- "-$track" 2> /dev/null || true; done
  wait 2> /dev/null || true
}

interrupted() {
  trap '' INT TERM
  stop_tracks
  say "interrupted; what is finished is kept: run it again and it goes on from there" >&2
  exit 130
}

# One `up` at a time per cache: a second one waits for the first and then finds its work done. All that a step starts
# inherits the lock, so a killed run's leftovers keep it until they have ended; only the engine, which stays, lets go of it.
take_lock() {
  mkdir -p "$CACHE"
  exec 9> "$CACHE/lock"
  if ! flock -n 9; then
    say "another lab command is at work (process $(recorded owner)): waiting for it"
    flock 9
  fi
  record owner $$
}
