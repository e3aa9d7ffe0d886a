#!/usr/bin/env bash
# Trains `small` on one accelerator, in calls as short as one likes:
#
#   experiments/train_accelerator.sh pictures RESULTS 9        first stage, nine minutes
#   experiments/train_accelerator.sh returns RESULTS 9         second stage, from what the first left
#
# The same words go on where the call before stopped, as long as runs/ and data/ are there; where they are not, a third
# argument begins from weights that an earlier call wrote:
#
#   experiments/train_accelerator.sh returns RESULTS 9 FOLDER
#
# RESULTS gets config.json, metrics.csv, the last sample and the DiT in pieces of 15 MB (cat dit.part_* >
# dit.safetensors): eight files at most. Python is $PYTHON; it needs jax, flax, optax, orbax-checkpoint, einops,
# jaxtyping, safetensors, sentencepiece, absl-py, tqdm and Pillow, and neither ml_collections nor grain,
# tensorflow-datasets or PyAV. Settings such as data.workers=4 follow the arguments after --.
set -euo pipefail
cd "$(dirname "$0")/.."

usage="usage: $0 pictures|returns RESULTS MINUTES [FOLDER OF WEIGHTS] [-- section.key=value ...]"
stage=${1:?$usage} results=${2:?$usage} minutes=${3:?$usage}
shift 3
start=""
if [ $# -gt 0 ] && [ "$1" != "--" ]; then
  start=$1
  shift
fi
[ $# -eq 0 ] || shift
case $stage in
  pictures) ;;
  returns) [ -n "$start" ] || [ -d runs/small_returns/checkpoints ] || start=runs/small_pictures/weights ;;
  *) echo "$usage" >&2; exit 2 ;;
esac

python=${PYTHON:-python3}
run=runs/small_$stage
"$python" -m experiments.train_plain "experiments/configs/small_$stage.py" "$run" --minutes="$minutes" \
  ${start:+--init-from="$start"} "$@"

mkdir -p "$run/weights"
for file in experiments/weights/mini_next/*; do
  case $file in */config.json | */dit.safetensors) ;; *) cp "$file" "$run/weights" ;; esac
done
"$python" -m experiments.export --workdir="$run" --out="$run/weights"
mkdir -p "$results"
rm -f "$results"/dit.part_*
split -b 15M "$run/weights/dit.safetensors" "$results/dit.part_"
cp "$run/weights/config.json" "$run/metrics.csv" "$results"
last=$(ls -t "$run"/samples/*.png 2>/dev/null | head -1)
[ -z "$last" ] || cp "$last" "$results/sample.png"
ls -l "$results"
