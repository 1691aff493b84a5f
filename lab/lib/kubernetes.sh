# shellcheck shell=bash disable=SC2153 # BASE_IMAGE is in common.sh
# The Go programs (kind, helm, Kubernetes itself where no node image can be pulled) and the node image made of them.

# The names under which kubeadm 1.34 asks for its parts.
COMPONENT_IMAGES=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
ETCD_IMAGE=registry.k8s.io/etcd:3.6.5-0
COREDNS_IMAGE=registry.k8s.io/coredns/coredns:v1.12.1
PAUSE_IMAGE=registry.k8s.io/pause:3.10.1
STORAGE_IMAGE=local-path-provisioner:packages

kubernetes_version() { pin k8s.io/kubernetes; }

# All programs come from one Go module: what they share (most of Kubernetes' client code) is compiled once.
# link_flags NAME: the versions that its release would carry.
link_flags() {
  local version=k8s.io/component-base/version helm=helm.sh/helm/v4 part
  printf '%s ' -s -w
  case $1 in
    kube) printf '%s ' "-X $version.gitVersion=v$(kubernetes_version)" "-X $version.gitMajor=1" \
      "-X $version.gitMinor=34" "-X $version.gitTreeState=clean" ;;
    helm)
      printf '%s ' "-X $helm/internal/version.version=v$(pin $helm)"
      for part in internal/version.kubeClientVersion pkg/chart/common.k8sVersion pkg/chart/v2/lint/rules.k8sVersion; do
        printf '%s ' "-X $helm/${part}Major=1" "-X $helm/${part}Minor=34"
      done
      ;;
  esac
}

program() { printf '%s\n' "$CACHE/go/$1-$(fingerprint "$1" "$(go env GOVERSION)" "$(link_flags "$1")" -- cluster)"; }

# build_program NAME PACKAGE
build_program() {
  local target
  target=$(program "$1")
  mkdir -p "$CACHE/go" "$BIN"
  if [[ ! -x $target ]]; then
    (cd "$LAB/cluster" && CGO_ENABLED=0 go build -v -trimpath -buildvcs=false -ldflags "$(link_flags "$1")" -o "$target.new" "$2")
    mv "$target.new" "$target"
    find "$CACHE/go" -maxdepth 1 -name "$1-????????????????*" ! -path "$target" -delete
  fi
}
# offer NAME FILE: puts a program into the cache's bin folder.
offer() {
  mkdir -p "$BIN"
  ln -sfn "$2" "$BIN/$1.new"
  mv -T "$BIN/$1.new" "$BIN/$1"
}
offered() { [[ -x $BIN/$1 && $(readlink "$BIN/$1") == "$2" ]]; }

kind_ready() { offered kind "$(program kind)"; }
kind_make() { build_program kind sigs.k8s.io/kind && offer kind "$(program kind)"; }

helm_ready() { offered helm "$(program helm)"; }
helm_make() { build_program helm helm.sh/helm/v4/cmd/helm && offer helm "$(program helm)"; }

# Beside a pulled node only kubectl is wanted, and the node carries one.
pulled_kubectl() { printf '%s\n' "$CACHE/go/kubectl-$(image_id "$PULLED_NODE_IMAGE" | cut -c8-23)"; }
kubernetes_ready() {
  if node_is_pulled; then offered kubectl "$(pulled_kubectl)"; else offered kubectl "$(program kube)"; fi
}
kubernetes_make() {
  if node_is_pulled; then
    local container
    container=$(docker create "$PULLED_NODE_IMAGE")
    mkdir -p "$CACHE/go"
    docker cp "$container:/usr/bin/kubectl" "$(pulled_kubectl).new"
    docker rm "$container"
    mv "$(pulled_kubectl).new" "$(pulled_kubectl)"
    offer kubectl "$(pulled_kubectl)"
  else
    build_program kube . && offer kubectl "$(program kube)"
  fi
}

provisioner_ready() {
  if node_is_pulled; then say "not needed"; else [[ -x $(program local-path-provisioner) && -x $(program pause) ]]; fi
}
provisioner_make() {
  build_program local-path-provisioner github.com/rancher/local-path-provisioner
  build_program pause ./pause
}

node_hash() {
  fingerprint "$(image_id "$BASE_IMAGE")" "$(program kube)" "$(program local-path-provisioner)" -- images/node
}

# The packages of the node and of the component images: installed while Go still compiles, then found in Docker's build cache.
nodeos_tag() { printf 'orderflow-lab/%s:%s\n' "$1" "$(fingerprint "$(image_id "$BASE_IMAGE")" -- images/node/Dockerfile)"; }
nodeos_ready() {
  if node_is_pulled; then say "not needed"; else
    [[ -n $(image_id "$(nodeos_tag component-os)") && -n $(image_id "$(nodeos_tag node-os)") ]]
  fi
}
nodeos_make() {
  local context target
  context=$(fresh_context node-os)
  cp "$LAB/images/node/Dockerfile" "$context"
  for target in component-os node-os; do
    docker build --force-rm --network host --target "$target" -t "$(nodeos_tag "$target")" "$context"
  done
  rm -rf "$context"
}

fill_node_context() {
  local name
  for name in kube local-path-provisioner pause; do ln "$(program "$name")" "$1/$name"; done
  cp "$LAB/images/node/Dockerfile" "$1"
}

# What the node loads into its containerd at boot, kept as tar files in the cache.
components_folder() { printf '%s\n' "$CACHE/images/components-$(node_hash)"; }
components_ready() {
  if node_is_pulled; then say "not needed"; else [[ -d $(components_folder) ]] || image_is "$MADE_NODE_IMAGE" "$(node_hash)"; fi
}
components_make() {
  local context folder name tags=("$ETCD_IMAGE" "$COREDNS_IMAGE")
  folder=$(components_folder)
  context=$(fresh_context components)
  fill_node_context "$context"
  for name in "${COMPONENT_IMAGES[@]}"; do tags+=("registry.k8s.io/$name:v$(kubernetes_version)"); done
  docker build --force-rm --target component -t "${tags[0]}" "$context"
  for name in "${tags[@]:1}"; do docker tag "${tags[0]}" "$name"; done
  docker build --force-rm --target pause -t "$PAUSE_IMAGE" "$context"
  docker build --force-rm --target storage -t "$STORAGE_IMAGE" "$context"
  rm -rf "$CACHE"/images/components-*
  mkdir -p "$folder.new"
  docker save -o "$folder.new/all.tar" "${tags[@]}" "$PAUSE_IMAGE" "$STORAGE_IMAGE"
  mv "$folder.new" "$folder"
  rm -rf "$context"
}

node_ready() {
  if node_is_pulled; then say pulled; else image_is "$MADE_NODE_IMAGE" "$(node_hash)"; fi
}
node_make() {
  local context
  context=$(fresh_context node)
  fill_node_context "$context"
  cp -r "$LAB/images/node/root" "$context"
  mkdir -p "$context/root/kind"
  printf 'v%s\n' "$(kubernetes_version)" > "$context/root/kind/version"
  mkdir "$context/images"
  ln "$(components_folder)"/*.tar "$context/images/"
  build_image "$MADE_NODE_IMAGE" "$(node_hash)" "$context" --target node
  rm -rf "$context"
}
