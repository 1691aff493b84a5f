# shellcheck shell=bash
# The product's programs and images, and what is installed into the cluster for the demo and the tests.
# shellcheck disable=SC2153 # CONTEXT and LAB come from common.sh

ROOT=$(cd "$LAB/.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
RELEASE=$CARGO_TARGET_DIR/release
# What the programs link against, and what compiles librdkafka.
BUILD_PACKAGES=(gcc g++ make pkg-config libssl-dev zlib1g-dev)
ROLLOUT_SECONDS=240

libraries_ready() { dpkg -s "${BUILD_PACKAGES[@]}" > /dev/null && say installed; }
libraries_make() {
  export DEBIAN_FRONTEND=noninteractive
  dpkg --configure -a
  apt-get update
  apt-get install -y --no-install-recommends "${BUILD_PACKAGES[@]}"
}

# Cargo names the artifacts of a workspace by the place of each package within it, not by where the workspace is, and
# takes a source for unchanged when it is older than its artifact: of two checkouts that share a target folder, one would
# run what the other built. So the folder remembers its checkout, and another one's sources count as changed.
claim_target() {
  local owner=$CARGO_TARGET_DIR/checkout
  [[ $(cat "$owner" 2> /dev/null) == "$ROOT" ]] && return
  mkdir -p "$CARGO_TARGET_DIR"
  find "$ROOT" -name .git -prune -o -path "$CARGO_TARGET_DIR" -prune -o -type f -exec touch -c {} +
  printf '%s\n' "$ROOT" > "$owner"
}

# Cargo itself knows what is current.
programs_ready() { return 1; }
programs_make() {
  cd "$ROOT" || return
  claim_target
  cargo build --release --locked -p operator -p order-service -p consumer -p e2e --bins
}

# A tag per content: a new image is a new name, so that Deployments roll by themselves.
content_tag() { (cd "$RELEASE" && sha256sum "$@") | sha256sum | cut -c1-12; }
product_tag() { content_tag operator order-service consumer; }
product_image() { printf 'orderflow/orderflow:dev-%s\n' "$(product_tag)"; }
demo_image() { printf 'orderflow/demo:dev-%s\n' "$(content_tag http-sink operator order-service consumer)"; }

product_ready() { [[ -n $(image_id "$(product_image)") && $(image_id "$(product_image)") == "$(image_id orderflow/orderflow:dev)" ]]; }
product_make() {
  local context
  context=$(fresh_context product)
  cp "$RELEASE"/{operator,order-service,consumer} "$ROOT/Dockerfile" "$context"
  build_image "$(product_image)" "$(product_tag)" "$context"
  docker tag "$(product_image)" orderflow/orderflow:dev
  rm -rf "$context"
}

demo_ready() { [[ -n $(image_id "$(demo_image)") ]]; }
demo_make() {
  local context
  context=$(fresh_context demo)
  cp "$RELEASE/http-sink" "$ROOT/e2e/Dockerfile" "$context"
  build_image "$(demo_image)" "$(product_tag)" "$context"
  rm -rf "$context"
}

loaded_ready() { node_has_image "$(product_image)" && node_has_image "$(demo_image)"; }
loaded_make() { load_images "$(product_image)" "$(demo_image)"; }

# Kafka and PostgreSQL alone, where they are not installed yet. After the node was started anew, its pods still count as
# ready by what was known of them before: so both are asked.
brokers_ready() { brokers_installed && brokers_answer && say running; }
brokers_make() {
  if ! brokers_installed; then
    helm_upgrade backends shop "$ROOT/charts/demo-backends" --set httpSink.enabled=false || return
  fi
  await_brokers
}

brokers_installed() { [[ -n $(release_records backends shop deployed) ]]; }
brokers_answer() {
  kube --namespace shop exec kafka-0 -- kafka-topics.sh --bootstrap-server localhost:9092 --list > /dev/null 2>&1 \
    && kube --namespace shop exec postgres-0 -- pg_isready -q -h 127.0.0.1 > /dev/null 2>&1
}
await_brokers() {
  local deadline=$((SECONDS + ROLLOUT_SECONDS))
  until brokers_answer; do
    ((SECONDS < deadline)) || { say "Kafka or PostgreSQL does not answer within $ROLLOUT_SECONDS s" && return 1; }
    sleep 1
  done
}

backends_make() {
  helm_upgrade backends shop "$ROOT/charts/demo-backends" \
    --set "httpSink.image=$(demo_image)" || return
  await_brokers
}
backends_ready() { return 1; }

# The CRD by itself: helm installs it once and never changes it.
operator_ready() { return 1; }
operator_make() {
  kube apply --server-side --force-conflicts -f "$ROOT/crds/orderpipelines.yaml"
  kube wait --for condition=established --timeout 60s crd/orderpipelines.orderflow.dev
  # Only `shop`: the tests drive operators of their own in other namespaces.
  helm_upgrade orderflow orderflow-system "$ROOT/charts/order-pipeline-operator" \
    --set "image.tag=dev-$(product_tag)" --set "watchNamespaces={shop}"
}

# release_records RELEASE NAMESPACE STATUS...: the Secrets in which helm keeps the release's revisions of these statuses.
release_records() {
  local release=$1 namespace=$2 IFS=,
  shift 2
  kube --namespace "$namespace" get secrets -o name -l "owner=helm,name=$release,status in ($*)"
}

helm_upgrade() {
  local release=$1 namespace=$2 chart=$3 record
  shift 3
  # Restricted, so that a pod which asks for too much does not start here either.
  kube create namespace "$namespace" --dry-run=client -o yaml | kube apply -f -
  kube label --overwrite namespace "$namespace" pod-security.kubernetes.io/enforce=restricted
  # A helm that was killed leaves its revision pending, and every later one would refuse to go on.
  for record in $(release_records "$release" "$namespace" pending-install pending-upgrade pending-rollback); do
    kube --namespace "$namespace" delete "$record"
  done
  helm --kube-context "$CONTEXT" upgrade --install "$release" "$chart" --namespace "$namespace" \
    --wait --timeout "${ROLLOUT_SECONDS}s" "$@"
}

# Whether every Deployment of the pipeline is told to run this image.
pipeline_runs() {
  local images
  images=$(kube --namespace shop get deployments -l orderflow.dev/pipeline=orders \
    -o 'jsonpath={range .items[*]}{.spec.template.spec.containers[0].image}{"\n"}{end}' | sort -u)
  [[ $images == "$1" ]]
}

pipeline_ready() { return 1; }
pipeline_make() {
  local image tries
  image=$(product_image)
  kube apply -f "$ROOT/crds/examples/orders.yaml"
  # A new operator finds a pipeline that says Ready of the image before; it rolls out its own first.
  for ((tries = 0; tries < ROLLOUT_SECONDS; tries++)); do
    pipeline_runs "$image" && break
    sleep 1
  done
  pipeline_runs "$image" || { say "the operator has not rolled out $image within $ROLLOUT_SECONDS s" && return 1; }
  kube --namespace shop rollout status deployment -l orderflow.dev/pipeline=orders --timeout "${ROLLOUT_SECONDS}s"
  kube --namespace shop wait --for condition=Ready --timeout "${ROLLOUT_SECONDS}s" orderpipeline/orders
}
