#!/usr/bin/env bash
# Everything in docs/performance.md that a CPU can measure, in about twenty minutes on two cores:
#   experiments/benchmarks/run_cpu.sh            (needs make setup-torch; --tiny shows whether all runs)
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv-torch/bin/python}
out=${OUT:-runs/performance}
"$PYTHON" -m experiments.benchmarks.everything cpu --out "$out" "$@"
case " $* " in *" --tiny "*) exit ;; esac
cp "$out/performance.md" docs/performance.md
if [ -f "$out/performance_chunks.png" ]; then cp "$out/performance_chunks.png" docs/; fi
