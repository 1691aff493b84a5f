# shellcheck shell=bash
# The kind cluster: made once, found again, mended when an interruption left half of it.

CLUSTER_WAIT_SECONDS=120
SYSTEM_WAIT_SECONDS=180

cluster_answers() {
  kube get --raw /readyz --request-timeout=3s > /dev/null 2>&1 \
    && [[ $(kube get node "$NODE" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2> /dev/null) == True ]]
}

# A cluster is whole when the container that was recorded at its end is the one that runs.
cluster_is_whole() {
  local id
  id=$(container_id "$NODE")
  [[ -n $id && $(recorded cluster) == "$id" ]]
}

cluster_ready() { cluster_is_whole && container_runs "$NODE" && cluster_answers && say running; }
cluster_make() {
  if cluster_is_whole && wake_cluster; then
    await_system
    return
  fi
  if cluster_exists; then say "removing a cluster that was never finished, or does not answer"; fi
  kind delete cluster --name "$CLUSTER"
  kind create cluster --name "$CLUSTER" --image "$(recorded node)" --config "$LAB/kind.yaml" --wait "${CLUSTER_WAIT_SECONDS}s"
  await_system
  record cluster "$(container_id "$NODE")"
}

# One name server is enough to go on; a second one that started before the network was ready backs off for half a minute.
await_system() {
  kube -n kube-system wait --for=condition=Available deployment/coredns --timeout "${SYSTEM_WAIT_SECONDS}s"
  kube -n local-path-storage wait --for=condition=Available deployment --all --timeout "${SYSTEM_WAIT_SECONDS}s"
}

# After the engine was stopped and started, the node and everything in it comes back by itself; it only takes its time.
wake_cluster() {
  local tries
  container_runs "$NODE" || docker start "$NODE" || return 1
  kind export kubeconfig --name "$CLUSTER" || return 1
  for ((tries = 0; tries < CLUSTER_WAIT_SECONDS; tries++)); do
    cluster_answers && return
    sleep 1
  done
  return 1
}

load_ready() { node_has_image "$KAFKA_IMAGE" && node_has_image "$POSTGRES_IMAGE"; }
load_make() { load_images "$KAFKA_IMAGE" "$POSTGRES_IMAGE"; }
