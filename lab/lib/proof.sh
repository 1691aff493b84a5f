# shellcheck shell=bash disable=SC2034 # the parts that source this use them
# Building the order service with its fail points, for the campaign and for the planted bugs.

PROOF=$CACHE/proof
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}

# Waits for a campaign that runs already: both would break the same containers and replace each other's programs.
take_turn() {
  mkdir -p "$PROOF"
  exec 8> "$PROOF/lock"
  flock --nonblock 8 || { say "waiting for the fault campaign that runs already" && flock 8; }
}

# The campaign's containers; what a campaign that was stopped left paused goes on.
proof_up() {
  engine_answers || die "no Docker engine answers: run lab/up, or lab/up --images-only"
  docker unpause "$PAIR-kafka" > /dev/null 2>&1 || true
  backends_up
  small_postgres_up
}

# build_service TREE FILE: builds it from the tree and puts it into FILE. A copy, because every build of the service, with or
# without fail points, takes the same place in the target folder. Each step is followed by its own way out: a caller that
# asks for the status turns `set -e` off.
build_service() { build_copy "$1" "$2" "${PROOF_PROFILE:-release}" order-service --features failpoints; }

# build_consumer TREE FILE: the same of the consumer, which has no fail points. Its speed is its sink's, so it is not optimised.
build_consumer() { build_copy "$1" "$2" dev consumer; }

# build_copy TREE FILE PROFILE PROGRAM [OPTION...]
build_copy() {
  local tree=$1 file=$2 profile=$3 program=$4 folder=$3
  shift 4
  [[ $profile != dev ]] || folder=debug
  (cd "$tree" && cargo build --quiet --locked --profile "$profile" -p "$program" --bin "$program" "$@") || return 1
  mkdir -p "$(dirname "$file")" || return 1
  cp "$CARGO_TARGET_DIR/$folder/$program" "$file.new" || return 1
  mv "$file.new" "$file"
}
