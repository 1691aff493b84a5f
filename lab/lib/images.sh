# shellcheck shell=bash
# The base image and the two backends. An image carries the fingerprint of what it was made from as a label, so it is its own stamp.

HASH_LABEL=dev.orderflow.lab.hash

# build_image TAG HASH CONTEXT [docker build options]: replaces the tag only when the build is complete.
build_image() {
  local tag=$1 hash=$2 context=$3
  shift 3
  # The host's network: package registries may be reachable from there only.
  docker build --force-rm --network host --label "$HASH_LABEL=$hash" -t "$tag" "$@" "$context"
}
image_is() { [[ -n $2 && $(image_label "$1" "$HASH_LABEL") == "$2" ]]; }

# Debian's smallest system, without what nobody reads in a container: like the official slim image, so that either serves.
base_options() {
  local folder
  # The hook and the package keep Perl out, which would only come to merge folders that are merged from the start.
  printf '%s\n' --variant=minbase --mode=root --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged \
    --dpkgopt=force-unsafe-io '--aptopt=APT::Install-Recommends "false"'
  for folder in doc man locale info lintian; do printf '%s\n' "--dpkgopt=path-exclude=/usr/share/$folder/*"; done
}
base_hash() { base_options | sha256sum | cut -c1-16; }

# A base without our label was pulled, and is left as it is.
base_ready() {
  [[ -n $(image_id "$BASE_IMAGE") ]] || return 1
  case $(image_label "$BASE_IMAGE" "$HASH_LABEL") in
    "") say pulled ;;
    "$(base_hash)") ;;
    *) return 1 ;;
  esac
}
base_make() {
  local tar options
  tar=$CACHE/images/base-$(base_hash).tar
  mapfile -t options < <(base_options)
  mkdir -p "$CACHE/images"
  if [[ ! -s $tar ]]; then
    rm -f "$CACHE"/images/base-*
    # An ordinary umask: the users inside the images must be able to read the system.
    (umask 022 && mmdebstrap "${options[@]}" bookworm "$tar.new.tar")
    mv "$tar.new.tar" "$tar"
  fi
  docker import --change 'CMD ["bash"]' --change "LABEL $HASH_LABEL=$(base_hash)" "$tar" "$BASE_IMAGE"
}

# Kafka's jars, in a folder named by what they were asked for with.
kafka_libs() { printf '%s\n' "$CACHE/kafka/$(fingerprint jars -- images/kafka/pom.xml)"; }
jars_ready() { [[ -d $(kafka_libs) ]]; }
jars_make() {
  local libs
  libs=$(kafka_libs)
  rm -rf "$CACHE/kafka"
  mkdir -p "$CACHE/kafka"
  mvn -B -ntp -f "$LAB/images/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$libs.new"
  mv "$libs.new" "$libs"
}

kafka_hash() { fingerprint "$(image_id "$BASE_IMAGE")" -- images/kafka; }
kafka_ready() { image_is "$KAFKA_IMAGE" "$(kafka_hash)"; }
kafka_make() {
  local context
  context=$(fresh_context kafka)
  cp -r "$LAB"/images/kafka/{Dockerfile,bin,config} "$context"
  cp -r "$(kafka_libs)" "$context/libs"
  build_image "$KAFKA_IMAGE" "$(kafka_hash)" "$context"
  rm -rf "$context"
}

postgres_hash() { fingerprint "$(image_id "$BASE_IMAGE")" -- images/postgres; }
postgres_ready() { image_is "$POSTGRES_IMAGE" "$(postgres_hash)"; }
postgres_make() { build_image "$POSTGRES_IMAGE" "$(postgres_hash)" "$LAB/images/postgres"; }

# An empty folder to gather a build's files in; one that a stopped run left behind is emptied.
fresh_context() {
  local context=$CACHE/build/$1
  rm -rf "$context"
  mkdir -p "$context"
  printf '%s\n' "$context"
}

# Whether the node has, under this name, the very image that Docker has: Docker's id is the digest of the image's
# configuration, which the manifest names. containerd spells names with more in front.
node_has_image() {
  local id
  id=$(image_id "$1")
  [[ -n $id ]] && docker exec "$NODE" sh -c 'ctr -n k8s.io images ls | awk -v name="/$1" \
      "substr(\"/\" \$1, length(\$1) - length(name) + 2) == name { print \$3 }" \
    | while read -r digest; do ctr -n k8s.io content get "$digest"; done' sh "$1" 2> /dev/null | grep -cF "$id" > /dev/null
}

# load_images NAME...: one stream for all that the node lacks, so that layers they share travel once.
load_images() {
  local image missing=()
  for image in "$@"; do
    [[ -n $(image_id "$image") ]] || die "Docker has no image $image: build it first"
    if node_has_image "$image"; then say "$image: already in the node"; else missing+=("$image"); fi
  done
  ((${#missing[@]} > 0)) || return 0
  docker save "${missing[@]}" | docker exec -i "$NODE" ctr -n k8s.io images import --snapshotter overlayfs - > /dev/null
  for image in "${missing[@]}"; do say "$image: loaded"; done
}
