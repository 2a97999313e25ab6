#!/usr/bin/env bash
# Check that an image of qsmflow runs as docs/containers.md says.
# Usage: docker/check.sh [IMAGE [BIDS_DIR]]      defaults: qsmflow, the repository's example data set
# ENGINE is the container engine with its own options (default: podman or docker, whichever is installed first),
# RUN_OPTIONS are added to every run, for example:
#   ENGINE="podman --runtime runc" RUN_OPTIONS="--ulimit nofile=4096:4096" docker/check.sh
set -uo pipefail
root=$(cd -- "$(dirname -- "$0")/.." && pwd)
image=${1:-qsmflow}
bids=$(realpath -- "${2:-$root/bids_examples/digital_heads}")
read -ra engine <<<"${ENGINE:-$(basename -- "$(command -v podman || command -v docker)")}"
read -ra run_options <<<"${RUN_OPTIONS:-}"
limit_mb=3000
# An id that no base image has a user for.
user=$((20000 + RANDOM)):$((20000 + RANDOM))

[ ${#engine[@]} -gt 0 ] || { echo "neither podman nor docker is installed" >&2; exit 1; }
"${engine[@]}" image inspect "$image" >/dev/null || exit 1

scratch=$(mktemp -d)
chmod 755 "$scratch"
mkdir -m 777 "$scratch/out"
failures=0

passed() { echo "ok       $1"; }
failed() { echo "FAILED   $1"; failures=$((failures + 1)); }
skipped() { echo "skipped  $1"; }
check() { # check TEXT COMMAND ...
    local text=$1
    shift
    if "$@" >"$scratch/log" 2>&1; then passed "$text"; else failed "$text"; tail -n 12 "$scratch/log" | sed 's/^/         /'; fi
}

# The strictest run that must do: unknown user, read-only root, no network.
strict=(run --rm --network none --read-only --tmpfs /tmp -u "$user" "${run_options[@]}")
in_container() { "${engine[@]}" "${strict[@]}" "$image" "$@"; }
with_data() { # with_data OPTION ... -- ARGUMENT ...
    local options=()
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    "${engine[@]}" "${strict[@]}" --tmpfs /work -v "$bids:/bids:ro" -v "$scratch/out:/out" "${options[@]}" "$image" "$@"
}
python_in_container() {
    "${engine[@]}" "${strict[@]}" -v "$scratch/out:/out" --entrypoint python "$image" -c "$1"
}
property() { "${engine[@]}" image inspect --format "$1" "$image"; }
label() { property "{{index .Config.Labels \"org.opencontainers.image.$1\"}}"; }

clean_up() {
    # The files belong to the user of the container.
    python_in_container 'import pathlib, shutil
for path in pathlib.Path("/out").iterdir():
    shutil.rmtree(path) if path.is_dir() else path.unlink()' >/dev/null 2>&1
    rm -rf "$scratch"
}
trap clean_up EXIT

check_entrypoint() { [ "$(property '{{json .Config.Entrypoint}}')" = '["qsmflow"]' ]; }
check_labels() {
    local name
    for name in title description version licenses; do
        [ -n "$(label $name)" ] || { echo "no label org.opencontainers.image.$name"; return 1; }
    done
}
check_threads() {
    local name
    for name in OMP MKL OPENBLAS; do
        property '{{json .Config.Env}}' | grep -q "\"${name}_NUM_THREADS=1\"" || { echo "no ${name}_NUM_THREADS"; return 1; }
    done
}
check_size() {
    local size=$(($(property '{{.Size}}') / 1000000))
    echo "$size MB"
    [ "$size" -lt "$limit_mb" ]
}
check_version() {
    local version
    version=$(in_container --version) || return 1
    echo "$version, label $(label version)"
    [ "$version" = "qsmflow $(label version)" ]
}
check_exit_code() {
    with_data -- /nowhere /out participant -w /work
    [ $? -eq 66 ]
}
check_outputs() {
    local report map
    for report in "$scratch"/out/sub-*.html; do [ -s "$report" ] || { echo "no report"; return 1; }; done
    for map in Chimap R2starmap; do
        [ -n "$(find "$scratch/out" -name "*_$map.nii.gz" -size +0)" ] || { echo "no $map"; return 1; }
    done
}
check_owner() { # Seen from inside: a rootless engine maps the ids.
    python_in_container 'import os, pathlib, sys
owners = {path.stat().st_uid for path in pathlib.Path("/out").rglob("*")}
print("owners", owners, "user", os.getuid())
sys.exit(owners != {os.getuid()})'
}
check_limits() { # It plans with what the container may use, not with what the machine has.
    local said
    said=$("${engine[@]}" "${strict[@]}" --memory 3g --cpus 1 -v "$bids:/bids:ro" "$image" \
        /bids /tmp/out participant -w /tmp/work --dry-run 2>&1) || { echo "$said"; return 1; }
    echo "$said"
    grep -q '1 process(es) of 1 thread(s), 2.9 GB' <<<"$said"
}
check_stop() { # It ends by itself on the signal (128 + 2), and is not killed after the time limit (128 + 9).
    local name=qsmflow-check-$$ code
    "${engine[@]}" "${strict[@]/--rm/-d}" --name "$name" --tmpfs /work -v "$bids:/bids:ro" -v "$scratch/out:/out" \
        "$image" /bids /out participant -w /work --nprocs 1 || return 1
    for _ in $(seq 120); do # until the first stage is done
        "${engine[@]}" logs "$name" 2>&1 | grep -q 'done in' && break
        sleep 0.5
    done
    "${engine[@]}" stop -t 30 "$name"
    code=$("${engine[@]}" inspect --format '{{.State.ExitCode}}' "$name")
    "${engine[@]}" logs "$name" 2>&1 | tail -n 3
    "${engine[@]}" rm -f "$name" >/dev/null
    echo "exit code $code"
    [ "$code" -eq 130 ]
}

echo "$image with $("${engine[@]}" --version), user $user"
check "the entry point is qsmflow itself, without a shell" check_entrypoint
check "labels" check_labels
check "one thread for each numerical library" check_threads
check "smaller than $limit_mb MB ($(($(property '{{.Size}}') / 1000000)) MB)" check_size
check "--version equals the label" check_version
check "exit code 66 for an input that is not there" check_exit_code
if [ -f "$bids/dataset_description.json" ]; then
    check "limits of memory and processors are heeded" check_limits
    check "a whole run" with_data -- /bids /out participant -w /work --inversion tkd --sloppy --nprocs 1
    check "maps and report were written" check_outputs
    check "what was written belongs to the user" check_owner
    check "stops when asked to" check_stop
else
    skipped "a whole run, its outputs, stopping: no BIDS data set in $bids"
fi
for other in podman docker; do
    [ "$(basename -- "${engine[0]}")" = "$other" ] || skipped "$other: this run used ${engine[0]}"
done
skipped "Apptainer: this script does not convert the image"
skipped "GPU: needs a build for CUDA and a device"

[ "$failures" -eq 0 ] || { echo "$failures check(s) failed"; exit 1; }
echo "all checks passed"
