"""LV-Bench's networks beside PyTorch's, float32 on the same CPU, batch and inputs:

python -m experiments.benchmarks.metric_networks
python -m experiments.benchmarks.metric_networks --networks dino,clip_b32 --reference CHECKOUTS

Inputs are what a 480p video gives each network.  Each side runs in a process of its own, interleaved,
with all cores; PyTorch eager in inference mode (`metric_networks_torch.py`), in this Python if it
has torch and otherwise in .venv-torch.  Weights are random and equal (torchvision's RAFT has its
own), results are compared before anything is timed, and a turn calls a network for 0.3 s or once,
after one turn that compiles.  Told are median seconds of a call and the median ratio of pairs of
turns.  Not included: decoding, preprocessing.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import math
import os
import statistics
import sys
import zlib
from collections.abc import Callable

import numpy as np
from absl import app, flags

from experiments.benchmarks import docs, environment, metrics
from experiments.benchmarks.interleave import (
    ROOT,
    Program,
    interleaved,
    median_ratio,
    seconds_per_call,
    serve,
)

_REPEAT = flags.DEFINE_integer("repeat", 5, "Turns of each.", lower_bound=1)
_NETWORKS = flags.DEFINE_list("networks", None, "Some of them. Default: all that are here.")
_BATCH = flags.DEFINE_integer("batch", None, "Pictures or pairs a call. Default: as in the table.")
_REFERENCE = flags.DEFINE_string(
    "reference", None, "Folder with checkouts IQA-PyTorch (for MUSIQ) and Inferix (for AMT-S)."
)
_WRITE_DOCS = flags.DEFINE_bool("write-docs", False, "Put the table into docs/performance.md.")
_SERVE = flags.DEFINE_bool("serve", False, "Be the program that is measured.")
_TITLE = "The metric networks of LV-Bench beside PyTorch"


@dataclasses.dataclass(frozen=True)
class Network:
    """A row of the table.

    module, forward: its function among bvjax.lvbench.nets; sizes: arguments of its `shapes`.
    picture: height and width of an input; pictures: how many a call takes of each pair.
    low, high: between which values pixels lie. vectors: what scales (AMT's slopes) lie around.
    checkout: what `--reference` must hold for PyTorch's side.
    """

    title: str
    module: str
    forward: str
    picture: tuple[int, int]
    batch: int
    sizes: tuple = ()
    pictures: int = 1
    low: float = 0.0
    high: float = 1.0
    vectors: float = 1.0
    checkout: str = ""

    def inputs(self, batch: int) -> list[np.ndarray]:
        """Random pictures [batch, h, w, 3], the same on both sides."""
        draw = np.random.default_rng(0)
        shape = (batch, *self.picture, 3)
        spread = self.high - self.low
        return [
            np.float32(self.low + spread * draw.random(shape, np.float32))
            for _ in range(self.pictures)
        ]


NORMALISED = dict(low=-2.0, high=2.0)
NETWORKS = {
    "dino": Network("DINO ViT-B/16", "dino", "dino", (224, 398), 4, **NORMALISED),
    "clip_b32": Network(
        "CLIP ViT-B/32", "clip_vision", "clip", (224, 224), 8, ("b32",), **NORMALISED
    ),
    "clip_l14": Network(
        "CLIP ViT-L/14", "clip_vision", "clip", (224, 224), 4, ("l14",), **NORMALISED
    ),
    "musiq": Network("MUSIQ", "musiq", "musiq", (287, 512), 4, checkout="IQA-PyTorch"),
    "amt": Network(
        "AMT-S", "amt", "interpolate", (480, 864), 1, pictures=2, vectors=0.25, checkout="Inferix"
    ),
    "raft": Network("RAFT, 20 updates", "raft", "flow", (480, 856), 1, pictures=2, high=255.0),
}


def tensors(network: Network) -> dict[str, np.ndarray]:
    """Random published tensors of about unit gain, the same on both sides."""
    module = importlib.import_module(f"bvjax.lvbench.nets.{network.module}")
    random_tensors = {}
    for name, shape in module.shapes(*network.sizes).items():
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        values = draw.random(shape, np.float32) - np.float32(0.5)
        if len(shape) == 1 and name.endswith(("weight", "running_var")):
            random_tensors[name] = np.float32(network.vectors) + np.float32(0.1) * values
        else:
            fan_in = math.prod(shape[1:]) if name.endswith("weight") and len(shape) > 1 else 100
            random_tensors[name] = values * np.float32(math.sqrt(12 / fan_in))
    return random_tensors


def sample(result: np.ndarray, count: int = 64) -> list[float]:
    """A few values of a result, evenly spread."""
    flat = np.asarray(result, np.float64).ravel()
    return flat[:: max(1, flat.size // count)].tolist()


@functools.lru_cache(maxsize=1)
def program(name: str, batch: int) -> Callable[[], object]:
    """A call of our network, compiled."""
    import jax

    network = NETWORKS[name]
    module = importlib.import_module(f"bvjax.lvbench.nets.{network.module}")
    params = jax.device_put(module.prepare(tensors(network)))
    inputs = jax.device_put(network.inputs(batch))
    run = jax.jit(getattr(module, network.forward)).lower(params, *inputs).compile()
    return lambda: run(params, *inputs).block_until_ready()


def answer(request: dict) -> float | list[float] | str:
    """{"network", "batch"}: seconds of a call; with "sample": some of its result."""
    if "version" in request:
        import jax

        return f"jax {jax.__version__}"
    run = program(request["network"], request["batch"])
    return sample(run()) if "sample" in request else seconds_per_call(run)


def row(name: str, jax_side: Program, torch_side: Program) -> str:
    """A line of the table."""
    network = NETWORKS[name]
    batch = _BATCH.value or network.batch
    request = dict(network=name, batch=batch, checkouts=_REFERENCE.value or "")
    size = "x".join(map(str, network.picture))
    head = f"| {network.title} | {batch} of {size}"
    expected = torch_side.ask(sample=True, **request)
    if isinstance(expected, str):
        return f"{head} | - | - | {expected} | - |"
    actual = jax_side.ask(sample=True, **request)
    error = np.abs(np.subtract(actual, expected)).max() / np.abs(expected).max()
    if name != "raft" and error > 1e-3:
        raise RuntimeError(f"{name}: the two sides differ by {error:.2g} of the largest value")
    timings = interleaved((jax_side, torch_side), _REPEAT.value, **request)
    jax_s, torch_s = map(statistics.median, timings)
    ratio = median_ratio(*timings)
    metrics.note(f"{network.title}: times as fast as PyTorch", ratio, "x", 0.9)
    error_text = "own weights" if name == "raft" else f"{error:.0e}"
    return f"{head} | {torch_s:.3f} s | {jax_s:.3f} s | {ratio:.2f} | {error_text} |"


def main(argv: list[str]) -> None:
    if _SERVE.value:
        return serve(answer)
    names = _NETWORKS.value or [
        name
        for name, network in NETWORKS.items()
        if importlib.util.find_spec(f"bvjax.lvbench.nets.{network.module}")
    ]
    python = sys.executable
    if importlib.util.find_spec("torch") is None:
        python = ROOT / ".venv-torch/bin/python"
    jax_side = Program(sys.executable, "experiments.benchmarks.metric_networks", "--serve")
    torch_side = Program(python, "experiments.benchmarks.metric_networks_torch")
    lines = [
        "| network | a call | PyTorch | bvjax | times as fast | results differ by |",
        "|---|---|---:|---:|---:|---:|",
    ]
    print("\n".join(lines))
    for name in names:
        lines.append(row(name, jax_side, torch_side))
        print(lines[-1], flush=True)
    versions = ", ".join(str(program.ask(version=True)) for program in (jax_side, torch_side))
    print(f"\n{versions}, {environment.device()}, load {os.getloadavg()[0]:.1f}")
    if _WRITE_DOCS.value:
        command = environment.command("experiments.benchmarks.metric_networks", argv[1:])
        docs.write_section(
            environment.device(), _TITLE, docs.section(_TITLE, command, versions, "\n".join(lines))
        )
    for program_side in (jax_side, torch_side):
        program_side.close()


if __name__ == "__main__":
    app.run(main)
