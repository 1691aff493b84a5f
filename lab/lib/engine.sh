# shellcheck shell=bash
# Debian's packages, a running Docker engine, and routes that keep stray packets on the machine.

# A refused connection to a Service that is not known yet is tried again at once; a packet that left the machine is waited for.
SERVICE_ROUTES=(10.96.0.0/12 10.244.0.0/16)
ENGINE_WAIT_SECONDS=60
PULL_SECONDS=20

# The packages whose commands are not here. The engine's own are asked for only where no engine answers.
missing_packages() {
  local pair wanted=(docker:docker.io ip:iproute2 jq:jq mmdebstrap:mmdebstrap flock:util-linux)
  engine_answers || wanted+=(dockerd:docker.io containerd:containerd runc:runc iptables:iptables)
  for pair in "${wanted[@]}"; do
    have "${pair%%:*}" || printf '%s\n' "${pair#*:}"
  done | sort -u | paste -sd ' '
}

packages_ready() { [[ -z $(missing_packages) ]]; }
packages_make() {
  export DEBIAN_FRONTEND=noninteractive
  # An earlier run may have been stopped in the middle of an installation.
  dpkg --configure -a
  apt-get update
  # shellcheck disable=SC2046 # one word per package is meant
  apt-get install -y --no-install-recommends $(missing_packages)
}

# The engine starts it for every container; it stands outside the cache, which may be deleted while the engine runs.
BOUNDED_RUNC=/usr/local/libexec/orderflow/runc-bounded

engine_ready() { engine_answers && { may_raise_limits || [[ -x $BOUNDED_RUNC ]]; } && say running; }
engine_make() {
  may_raise_limits || install -D -m 755 "$LAB/engine/runc-bounded" "$BOUNDED_RUNC"
  if [[ -d /run/systemd/system ]]; then
    systemctl start docker
  else
    await_dying_engine
    engine_answers || start_engine
  fi
  local tries
  for ((tries = 0; tries < ENGINE_WAIT_SECONDS; tries++)); do
    if engine_answers; then
      [[ -d /run/systemd/system ]] || record engine.pid "$(cat /var/run/docker.pid)"
      return
    fi
    sleep 1
  done
  say "the Docker engine did not answer within $ENGINE_WAIT_SECONDS s; its own log: $LOGS/dockerd.log"
  tail -n 20 "$LOGS/dockerd.log"
  return 1
}

# A dockerd that is starting or stopping keeps its pid file; a second one beside it would refuse to start. A pid file whose
# process is gone, or is something else by now, is removed.
await_dying_engine() {
  local pid tries
  for ((tries = 0; tries < ENGINE_WAIT_SECONDS; tries++)); do
    pid=$(cat /var/run/docker.pid 2> /dev/null || true)
    if [[ -z $pid || $(cat "/proc/$pid/comm" 2> /dev/null) != dockerd ]]; then
      rm -f /var/run/docker.pid
      return
    fi
    engine_answers && return
    sleep 1
  done
  say "dockerd (process $pid) runs but does not answer: see why, or stop it"
  return 1
}

# dockerd takes whatever process has the number in this file for its containerd, and waits for it in vain.
forget_dead_containerd() {
  local file=/var/run/docker/containerd/containerd.pid pid
  pid=$(cat "$file" 2> /dev/null || true)
  [[ -n $pid && $(cat "/proc/$pid/comm" 2> /dev/null) != containerd ]] && rm -f "$file"
  return 0
}

# In a session of its own, so that it outlives the shell that ran `up`.
start_engine() {
  local flags=()
  forget_dead_containerd
  if ! may_raise_limits; then
    flags+=(--add-runtime "bounded=$BOUNDED_RUNC" --default-runtime bounded)
  fi
  setsid dockerd "${flags[@]}" >> "$LOGS/dockerd.log" 2>&1 < /dev/null 9>&- &
}

# CAP_SYS_RESOURCE, bit 24 of the bounding set: some sandboxed machines withhold it.
may_raise_limits() {
  local bounding
  bounding=$(awk '/^CapBnd/ { print $2 }' /proc/self/status)
  (((16#$bounding >> 24) & 1))
}

routes_set() {
  local range
  for range in "${SERVICE_ROUTES[@]}"; do
    ip route show type unreachable 2> /dev/null | grep -qF "$range" || return 1
  done
}
routes_ready() { routes_set && say set; }
routes_make() {
  local range
  # `unreachable` answers with an error at once; `blackhole` would swallow the packet and cost its sender a timeout.
  for range in "${SERVICE_ROUTES[@]}"; do ip route replace unreachable "$range"; done
}

# Where a registry answers, its images serve; where none does, both are made from packages.
pulls_ready() {
  [[ -n $(image_id "$BASE_IMAGE") ]] || return 1
  case $(recorded node) in
    "$PULLED_NODE_IMAGE") [[ -n $(image_id "$PULLED_NODE_IMAGE") ]] && say "pulled before" ;;
    "$MADE_NODE_IMAGE") say "none needed" ;;
    *) return 1 ;;
  esac
}
pulls_make() {
  local base node=$MADE_NODE_IMAGE
  timeout "$PULL_SECONDS" docker pull "$BASE_IMAGE" &
  base=$!
  # The official node wants cgroup v2 and all capabilities.
  if [[ $(stat -f -c %T /sys/fs/cgroup) == cgroup2fs ]] && may_raise_limits; then
    # A short knock first; only where it is answered is there reason to wait for the whole image.
    if wait "$base" && timeout 600 docker pull "$PULLED_NODE_IMAGE"; then node=$PULLED_NODE_IMAGE; fi
  fi
  wait "$base" || true
  record node "$node"
}
node_is_pulled() { [[ $(recorded node) == "$PULLED_NODE_IMAGE" ]]; }
