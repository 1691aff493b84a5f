# shellcheck shell=bash
# Looks for everything that would make a later step fail, and says all of it at once.

NEEDED_GIB=12
GO_MINOR_NEEDED=25
CLUSTER_PORTS=(8080 9094 5433)
PROBLEMS=()

problem() { PROBLEMS+=("$1"); }

check_machine() {
  [[ $(uname -s) == Linux ]] || problem "this needs Linux, this is $(uname -s)"
  [[ $(uname -m) == x86_64 ]] || problem "this is made for x86_64, this machine is $(uname -m)"
}

check_rights() {
  is_root && return
  if [[ -n $(missing_packages) ]]; then
    problem "not root, and these packages have to be installed: $(missing_packages)"
  elif ! engine_answers; then
    problem "not root, and no Docker engine answers: start it, or let this user reach it"
  elif ! routes_set; then
    problem "not root, and the routes of lab/lib/engine.sh have to be set: run lab/up once as root"
  fi
}

check_tools() {
  if [[ -z $1 ]]; then
    local minor
    if ! have go; then
      problem "go is not installed (1.$GO_MINOR_NEEDED or newer builds kind, helm and Kubernetes)"
    else
      minor=$(go env GOVERSION | sed -E 's/^go1\.([0-9]+).*/\1/')
      [[ $minor =~ ^[0-9]+$ ]] && ((minor < GO_MINOR_NEEDED)) \
        && problem "go is $(go env GOVERSION), 1.$GO_MINOR_NEEDED or newer is needed"
    fi
  fi
  [[ -n $1 ]] || have cargo || problem "cargo is not installed (it builds the product: install Rust with rustup)"
  have java || problem "java is not installed (Maven needs it to fetch Kafka's jars)"
  have mvn || problem "mvn is not installed (it fetches Kafka's jars)"
}

# Free space where the images and the caches go; not asked for once the cluster is there.
check_disk() {
  local folder free
  for folder in "${XDG_CACHE_HOME:-$HOME}" /var/lib; do
    [[ -d $folder ]] || continue
    free=$(df --output=avail -BG "$folder" | tail -n 1 | tr -dc 0-9)
    if ((free < NEEDED_GIB)); then problem "$free GiB are free under $folder, $NEEDED_GIB are needed"; fi
  done
}

check_ports() {
  local port holder
  for port in "${CLUSTER_PORTS[@]}"; do
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || continue
    holder=$(ss -ltnpH "sport = :$port" 2> /dev/null | grep -oE '"[^"]+",pid=[0-9]+' | head -n 1 || true)
    problem "port 127.0.0.1:$port is taken${holder:+ by ${holder//\"/}}"
  done
}

# preflight [images-only]
preflight() {
  local images_only=${1:-} line
  PROBLEMS=()
  check_machine
  check_rights
  check_tools "$images_only"
  if ! engine_answers || ! cluster_exists; then
    check_disk
    [[ -n $images_only ]] || check_ports
  fi
  ((${#PROBLEMS[@]} == 0)) && return
  for line in "${PROBLEMS[@]}"; do printf 'error: %s\n' "$line" >&2; done
  exit 1
}
