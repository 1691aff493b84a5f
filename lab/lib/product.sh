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

# Cargo itself knows what is current.
programs_ready() { return 1; }
programs_make() {
  cd "$ROOT" || return
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

# Kafka and PostgreSQL alone, where they are not installed yet.
brokers_ready() { helm --kube-context "$CONTEXT" --namespace shop status backends > /dev/null && say installed; }
brokers_make() { helm_upgrade backends shop "$ROOT/charts/demo-backends" --set httpSink.enabled=false; }

backends_make() {
  helm_upgrade backends shop "$ROOT/charts/demo-backends" \
    --set "httpSink.image=$(demo_image)"
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

helm_upgrade() {
  local release=$1 namespace=$2 chart=$3
  shift 3
  helm --kube-context "$CONTEXT" upgrade --install "$release" "$chart" --namespace "$namespace" --create-namespace \
    --wait --timeout "${ROLLOUT_SECONDS}s" "$@"
}

pipeline_ready() { return 1; }
pipeline_make() {
  kube apply -f "$ROOT/crds/examples/orders.yaml"
  kube --namespace shop wait --for condition=Ready --timeout "${ROLLOUT_SECONDS}s" orderpipeline/orders
}
