# shellcheck shell=bash
# The two backends as plain containers, for tests that need no cluster.

IT_KAFKA=orderflow-it-kafka
IT_POSTGRES=orderflow-it-postgres
IT_KAFKA_PORT=19094
IT_POSTGRES_PORT=15433
BACKEND_WAIT_SECONDS=60

kafka_answers() { docker exec "$IT_KAFKA" kafka-topics.sh --bootstrap-server localhost:9092 --list > /dev/null 2>&1; }
postgres_answers() {
  [[ $(docker exec "$IT_POSTGRES" psql -h 127.0.0.1 -U postgres -d data_platform -Atc 'select 1' 2> /dev/null) == 1 ]]
}

# ensure_container NAME IMAGE [docker run options]: runs it, keeps the one that runs already, renews one of another image.
# Its data is an anonymous volume: it outlives a restart and goes with the container.
ensure_container() {
  local name=$1 image=$2
  shift 2
  [[ -n $(image_id "$image") ]] || die "Docker has no image $image: run lab/up --images-only"
  if [[ $(docker container inspect -f '{{.Image}}' "$name" 2> /dev/null) != "$(image_id "$image")" ]]; then
    docker rm -f -v "$name" > /dev/null 2>&1 || true
    docker run -d --name "$name" --read-only --tmpfs /tmp --cap-drop ALL "$@" "$image" > /dev/null
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
  ensure_container "$IT_KAFKA" "$KAFKA_IMAGE" -v /var/lib/kafka -e "EXTERNAL_PORT=$IT_KAFKA_PORT" \
    -p "127.0.0.1:$IT_KAFKA_PORT:9094"
  ensure_container "$IT_POSTGRES" "$POSTGRES_IMAGE" -v /var/lib/pg --shm-size 256m -p "127.0.0.1:$IT_POSTGRES_PORT:5432"
  await "$IT_POSTGRES" postgres_answers
  await "$IT_KAFKA" kafka_answers
  backends_status
}

backends_down() {
  local name
  for name in "$IT_KAFKA" "$IT_POSTGRES"; do
    if [[ -n $(container_id "$name") ]]; then docker rm -f -v "$name" > /dev/null && say "$name: removed"; fi
  done
}

backends_status() {
  local missing=0
  if kafka_answers; then say "kafka 127.0.0.1:$IT_KAFKA_PORT: answers"; else missing=1 && say "kafka 127.0.0.1:$IT_KAFKA_PORT: down"; fi
  if postgres_answers; then
    say "postgres 127.0.0.1:$IT_POSTGRES_PORT: answers"
  else
    missing=1 && say "postgres 127.0.0.1:$IT_POSTGRES_PORT: down"
  fi
  return $missing
}
