#!/bin/sh
# Make the networks that come with the package anew: data, training, and their way into qsmflow/data/models.
# Usage: scripts/train_models.sh WORK_DIR
# The trainings end after some nine hours in all, once the data are there. Those that were shipped had as long,
# in several parts, as their cards tell. What has ended is not done twice; to go on with
# a training that was stopped, call qsmflow-train as below with --resume, then this script.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
bin=${QSMFLOW_VENV:-$root/.venv}/bin
work=$1
mkdir -p "$work"
cd "$work"

# Name of the run, then arguments of qsmflow-train.
train() {
    name=$1
    shift
    [ -d "$name/bundle" ] || "$bin/qsmflow-train" "$@" --out "$name"
}

"$bin/qsmflow-train" heads --out heads --subjects 48
"$bin/qsmflow-train" pairs --out pairs --subjects 72 --motions 4

train shapes deepqsm --data shapes --seed 1 --max-time 45
train deepqsm-shapes deepqsm --data shapes --init shapes/bundle --learning-rate 6e-4 --seed 14 --max-time 25
train deepqsm-head deepqsm --data heads shapes --init shapes/bundle --batch-size 1 --seed 13 --max-time 160
train motion-unet unet --data pairs --seed 31 --compile --max-time 280
train motion-prenet prenet --data pairs --unet motion-unet/bundle --seed 41 --max-time 15

"$bin/python" "$root/scripts/ship_models.py" shapes/bundle deepqsm-shapes/bundle
"$bin/python" "$root/scripts/ship_models.py" shapes/bundle deepqsm-head/bundle
"$bin/python" "$root/scripts/ship_models.py" motion-unet/bundle
"$bin/python" "$root/scripts/ship_models.py" motion-prenet/bundle
