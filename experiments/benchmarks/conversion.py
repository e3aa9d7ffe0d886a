"""Time and memory of converting a full-size DiT, with random weights:

python -m experiments.benchmarks.conversion --preset=wan-1.3b

Writes a random checkpoint in the original format, converts it in a process of its own, and prints
how long that took and the most memory it held beside what Python and its imports hold.  Included:
reading, checking, converting, writing and hashing.  Not included: starting Python, making the input.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from bvjax.conversion import formats
from bvjax.presets import get_preset
from bvjax.tensor_files import TensorInfo, TensorWriter

_PRESET = flags.DEFINE_string("preset", "wan-1.3b", "Whose DiT.")
_LAYERS = flags.DEFINE_integer("layers", None, "Only so many layers of it.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of the input; the output is the same.")
_TO = flags.DEFINE_string("to", "bvjax", "Layout to write.")
_FOLDER = flags.DEFINE_string("folder", None, "Where files go (default: a temporary folder).")

# Run in the child: the peak before and after, so that imports do not count.  VmHWM, because
# getrusage goes on counting from the process that started this one.
CHILD = """
import json, re, sys, time
import bvjax.conversion.converter as converter
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
before, start = peak(), time.perf_counter()
converter.convert(sys.argv[1], sys.argv[2], sys.argv[3], overrides=())
print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "peak": peak()}))
"""


def random_checkpoint(path: Path, preset: str, layers: int | None, dtype: str) -> dict[str, int]:
    """Writes a DiT in the original format with its config.json; returns sizes in bytes."""
    model = get_preset(preset)
    if layers:
        model = dataclasses.replace(model, dit=dataclasses.replace(model.dit, num_layers=layers))
    specs = formats.specs(model, "dit", "wan")
    infos = {spec.external_name: TensorInfo(spec.external_shape, dtype) for spec in specs}
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with TensorWriter(path / "diffusion_pytorch_model.safetensors", infos) as writer:
        for name, info in infos.items():
            values = rng.standard_normal(info.shape, np.float32) * 0.02
            writer.write(name, values.astype(np.dtype(info.dtype)))
    name, config = formats.config_file(model, "dit", "wan")
    (path / name).write_text(json.dumps(config), encoding="utf-8")
    sizes = [info.nbytes for info in infos.values()]
    return {"tensors": len(sizes), "total": sum(sizes), "largest": max(sizes)}


def main(argv) -> None:
    del argv
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        sizes = random_checkpoint(Path(folder) / "src", _PRESET.value, _LAYERS.value, _DTYPE.value)
        start = time.perf_counter()
        command = [sys.executable, "-c", CHILD, f"{folder}/src", f"{folder}/dst", _TO.value]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        usage = json.loads(done.stdout.splitlines()[-1])
    seconds = time.perf_counter() - start
    added = usage["peak"] - usage["before"]
    print(
        f"{_PRESET.value}, {_LAYERS.value or 'all'} layers, {_DTYPE.value}, wan -> {_TO.value}: "
        f"{sizes['tensors']} tensors, {sizes['total'] / 1e9:.2f} GB, the largest {sizes['largest'] / 1e6:.0f} MB\n"
        f"{usage['seconds']:.1f} s ({seconds:.1f} s with starting Python), "
        f"{sizes['total'] / usage['seconds'] / 1e6:.0f} MB/s\n"
        f"peak memory {usage['peak'] / 1e6:.0f} MB, of which {added / 1e6:.0f} MB beside the "
        f"{usage['before'] / 1e6:.0f} MB of Python and its imports "
        f"({added / sizes['largest']:.1f} times the largest tensor)"
    )


if __name__ == "__main__":
    app.run(main)
