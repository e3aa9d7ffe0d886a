#!/usr/bin/env bash
# Everything for a machine with an NVIDIA GPU or a TPU, in under ten minutes, one table at the end:
#   experiments/benchmarks/run_accelerator.sh          (--tiny: on tiny sizes, on any machine)
# Needs Python 3.11 or later with jax, flax, optax, einops, jaxtyping, absl-py, safetensors, tqdm and pytest;
# PyTorch for the comparison.  Results are in $OUT (runs/accelerator); performance.md there replaces
# docs/performance.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" -m experiments.benchmarks.everything accelerator \
  --out "${OUT:-runs/accelerator}" "$@"
