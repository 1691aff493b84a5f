# shellcheck shell=bash disable=SC2034 # the parts that source this use them
# What every lab command shares: where things are, what is pinned, how to speak and to fail.

LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/orderflow
BIN=$CACHE/bin
LOGS=$CACHE/logs
STATE=$CACHE/state

CLUSTER=orderflow
CONTEXT=kind-$CLUSTER
NODE=$CLUSTER-control-plane
KAFKA_IMAGE=orderflow/kafka:4.1.1
POSTGRES_IMAGE=orderflow/postgres:15
BASE_IMAGE=debian:bookworm-slim
# The node image of kind 0.30 itself, used where a registry answers and the kernel has cgroup v2.
PULLED_NODE_IMAGE=kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a
MADE_NODE_IMAGE=kindest/node:v1.34.4-packages

# Debian keeps the daemons' folders out of an ordinary user's PATH.
export PATH="$BIN:$PATH:/usr/local/sbin:/usr/sbin:/sbin"
# The classic builder is in every engine, needs no plugin, and sees images that were imported rather than pulled.
export DOCKER_BUILDKIT=0

say() { printf '%s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
have() { command -v "$1" > /dev/null 2>&1; }
is_root() { [[ $(id -u) == 0 ]]; }

# pin MODULE: the version that lab/cluster/go.mod pins, without its v; that file is the one place for Go versions.
pin() { awk -v module="$1" '$1 == module && $2 ~ /^v/ { print substr($2, 2); exit }' "$LAB/cluster/go.mod"; }

# fingerprint WORD... -- PATH...: a short hash of the words and of the content of the lab's files and folders named.
fingerprint() {
  local words=()
  while [[ $# -gt 0 && $1 != -- ]]; do words+=("$1") && shift; done
  shift
  (
    cd "$LAB" || exit 1
    printf '%s\n' "${words[@]}"
    find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum
  ) | sha256sum | cut -c1-16
}

# Seconds as a person reads them.
duration() {
  if (($1 < 60)); then printf '%ds' "$1"; else printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); fi
}

kube() { kubectl --context "$CONTEXT" "$@"; }
engine_answers() { timeout 10 docker info > /dev/null 2>&1; }
image_id() { docker image inspect -f '{{.Id}}' "$1" 2> /dev/null; }
image_label() { docker image inspect -f "{{index .Config.Labels \"$2\"}}" "$1" 2> /dev/null; }
container_id() { docker container inspect -f '{{.Id}}' "$1" 2> /dev/null; }
container_runs() { [[ $(docker container inspect -f '{{.State.Running}}' "$1" 2> /dev/null) == true ]]; }
cluster_exists() { [[ -n $(container_id "$NODE") ]]; }

# A record in the cache that is whole or absent: written aside, then renamed.
record() {
  mkdir -p "$STATE"
  printf '%s\n' "$2" > "$STATE/$1.new"
  mv "$STATE/$1.new" "$STATE/$1"
}
recorded() { cat "$STATE/$1" 2> /dev/null || true; }
