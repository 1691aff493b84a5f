# shellcheck shell=bash
# The two backends as plain containers, for tests that need no cluster. There are two pairs: one for the integration tests,
# which share it, and one for the fault campaign, which breaks its own.

BACKEND_WAIT_SECONDS=60

# Which pair the functions below work on.
use_integration_pair() { PAIR=orderflow-it KAFKA_PORT=19094 KAFKA_ADVERTISED_PORT=19094 POSTGRES_PORT=15433; }
# Kafka names another port than its own: the one of the campaign's proxy. The names are those of e2e/src/proof/backends.rs.
use_proof_pair() { PAIR=orderflow-proof KAFKA_PORT=29095 KAFKA_ADVERTISED_PORT=29094 POSTGRES_PORT=25433; }

# The campaign's second PostgreSQL, on a disk that can be filled. The holder keeps the disk while the server is down.
SMALL_POSTGRES=orderflow-proof-postgres-small
SMALL_DISK=orderflow-proof-disk
SMALL_DISK_HOLDER=orderflow-proof-disk-holder
SMALL_POSTGRES_PORT=25434
# Two databases, a small WAL, and room for one run: filling the rest takes a moment.
SMALL_DISK_SIZE=256m

kafka_answers() { docker exec "$PAIR-kafka" kafka-topics.sh --bootstrap-server localhost:9092 --list > /dev/null 2>&1; }
postgres_answers_in() {
  [[ $(docker exec "$1" psql -h 127.0.0.1 -U postgres -d data_platform -Atc 'select 1' 2> /dev/null) == 1 ]]
}
postgres_answers() { postgres_answers_in "$PAIR-postgres"; }
small_postgres_answers() { postgres_answers_in "$SMALL_POSTGRES"; }

# ensure_container NAME IMAGE [docker run options [-- arguments of its program]]: runs it, keeps the one that runs already,
# renews one of another image. Its data is an anonymous volume unless named: it outlives a restart and goes with the container.
ensure_container() {
  local name=$1 image=$2 options=()
  shift 2
  while [[ $# -gt 0 && $1 != -- ]]; do options+=("$1") && shift; done
  [[ $# -eq 0 ]] || shift
  [[ -n $(image_id "$image") ]] || die "Docker has no image $image: run lab/up --images-only"
  if [[ $(docker container inspect -f '{{.Image}}' "$name" 2> /dev/null) != "$(image_id "$image")" ]]; then
    docker rm -f -v "$name" > /dev/null 2>&1 || true
    docker run -d --name "$name" --read-only --tmpfs /tmp --cap-drop ALL "${options[@]}" "$image" "$@" > /dev/null
  elif ! container_runs "$name"; then
    docker start "$name" > /dev/null
  fi
}

# await NAME CHECK: until it answers, or says why it does not.
await() {
  local deadline=$((SECONDS + BACKEND_WAIT_SECONDS))
  until "$2"; do
    if ((SECONDS >= deadline)) || ! container_runs "$1"; then
      docker logs --tail 20 "$1" >&2 || true
      die "$1 does not answer after $BACKEND_WAIT_SECONDS s, or has stopped; its last lines are above"
    fi
    sleep 0.3
  done
}

backends_up() {
  ensure_container "$PAIR-kafka" "$KAFKA_IMAGE" -v /var/lib/kafka -e "EXTERNAL_PORT=$KAFKA_ADVERTISED_PORT" \
    -p "127.0.0.1:$KAFKA_PORT:9094"
  ensure_container "$PAIR-postgres" "$POSTGRES_IMAGE" -v /var/lib/pg --shm-size 256m -p "127.0.0.1:$POSTGRES_PORT:5432"
  await "$PAIR-postgres" postgres_answers
  await "$PAIR-kafka" kafka_answers
  backends_status
}

backends_down() { remove_containers "$PAIR-kafka" "$PAIR-postgres"; }

remove_containers() {
  local name
  for name in "$@"; do
    if [[ -n $(container_id "$name") ]]; then docker rm -f -v "$name" > /dev/null && say "$name: removed"; fi
  done
}

# answers WHAT CHECK: says whether it answers.
answers() { if "$2"; then say "$1: answers"; else say "$1: down" && return 1; fi; }

backends_status() {
  local missing=0
  answers "kafka 127.0.0.1:$KAFKA_PORT" kafka_answers || missing=1
  answers "postgres 127.0.0.1:$POSTGRES_PORT" postgres_answers || missing=1
  return $missing
}

small_postgres_up() {
  docker volume inspect "$SMALL_DISK" > /dev/null 2>&1 || docker volume create --opt type=tmpfs --opt device=tmpfs \
    --opt "o=size=$SMALL_DISK_SIZE,uid=1002,gid=1002,mode=0700" "$SMALL_DISK" > /dev/null
  ensure_container "$SMALL_DISK_HOLDER" "$POSTGRES_IMAGE" -v "$SMALL_DISK:/var/lib/pg" --entrypoint sleep -- infinity
  ensure_container "$SMALL_POSTGRES" "$POSTGRES_IMAGE" -v "$SMALL_DISK:/var/lib/pg" -p "127.0.0.1:$SMALL_POSTGRES_PORT:5432" \
    -- -c min_wal_size=32MB -c max_wal_size=64MB
  await "$SMALL_POSTGRES" small_postgres_answers
  small_postgres_status
}

small_postgres_down() {
  remove_containers "$SMALL_POSTGRES" "$SMALL_DISK_HOLDER"
  docker volume rm -f "$SMALL_DISK" > /dev/null
}

small_postgres_status() { answers "postgres on a small disk 127.0.0.1:$SMALL_POSTGRES_PORT" small_postgres_answers; }
