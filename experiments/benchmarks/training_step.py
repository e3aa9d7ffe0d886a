"""The cost of an update of the small model's DiT: its single latents, and chunks with history.

python -m experiments.benchmarks.training_step --weights bvjax/assets/mini
python -m experiments.benchmarks.training_step --weights bvjax/assets/mini --set dit.remat=dots

Both stages are those of `experiments/configs`, with their batches and draws; latents and text states are random, and
captions have `--caption` rows that are not padding.  Told are medians, in CPU seconds of the process, of forward and
backward together and of the update; operations are counted from shapes, without what is computed a second time.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from bvjax import flops
from bvjax.config import ModelConfig
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.optimizer import learning_rate, make_optimizer
from bvjax.train.step import apply_gradients
from data_pipelines.encoded.example import ExampleSpec
from experiments.benchmarks import docs, environment, models, options
from experiments.configs import mini_dit, mini_dit_frames
from experiments.experiment import DiTExperiment

# Name -> its configuration, and chunks of an example.
STAGES = {
    "single latents": (mini_dit_frames.experiment, 2),
    "history": (mini_dit.experiment, 15),
}
TITLE = "mini, an update of training"


@dataclasses.dataclass(frozen=True)
class Cost:
    """CPU seconds of an update's parts, and its operations."""

    gradient: float
    update: float
    flop: int


def example_batch(
    model: ModelConfig, experiment: DiTExperiment, chunks: int, caption: int
) -> dict[str, np.ndarray]:
    """Random examples of an update; rows of text from `caption` on are zeros."""
    spec = ExampleSpec.of(model, chunks, experiment.data.extras)
    rng, videos = np.random.default_rng(0), experiment.train.global_batch_size
    batch = {
        name: rng.standard_normal((videos, *shape), np.float32)
        for name, shape in spec.shapes().items()
    }
    for name in ("text", "standalone"):
        batch[name][:, :, caption:] = 0.0
    return batch | {"relevance": np.abs(batch["relevance"])}


def cost(
    model: ModelConfig,
    params: Any,
    experiment: DiTExperiment,
    chunks: int,
    caption: int,
    repeat: int,
) -> Cost:
    """The cost of an update of one stage."""
    batch = example_batch(model, experiment, chunks, caption)
    objective = DiTObjective(
        model=model,
        forcing=experiment.draw,
        null_text=np.zeros((model.text.max_length, model.text.dim), np.float32),
        heldout={},
        vae_params=None,
        sample_stories=0,
        sample_chunks=0,
        weights_dtype="float32",
    )
    optimizer = make_optimizer(experiment.optimizer, learning_rate(experiment.optimizer, 1000))
    key, opt_state = jax.random.key(0), optimizer.init(params)
    gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    update = jax.jit(lambda p, s, g: apply_gradients(optimizer, p, s, g))
    _, grads = gradient(params, batch, key)
    plain = dataclasses.replace(model, dit=dataclasses.replace(model.dit, remat="none"))
    counted = flops.count(
        jax.value_and_grad(dataclasses.replace(objective, model=plain).loss, has_aux=True),
        *(params, batch, key),
    )
    return Cost(
        gradient=_median(lambda: gradient(params, batch, key), repeat),
        update=_median(lambda: update(params, opt_state, grads), repeat),
        flop=counted.total(),
    )


def _median(run: Callable[[], Any], repeat: int) -> float:
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        jax.block_until_ready(run())
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def table(results: dict[str, Cost]) -> str:
    """A row a stage."""
    lines = [
        "| stage | forward and backward, CPU s | update, CPU s | operations | a CPU second |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, each in results.items():
        lines.append(
            f"| {name} | {each.gradient:.3f} | {each.update:.3f} | {each.flop / 1e9:.1f} GFLOP | "
            f"{each.flop / each.gradient / 1e9:.1f} GFLOP |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    parser = options.parser(__doc__)
    add = parser.add_argument
    add("--repeat", type=options.whole(), default=7, help="times; the median is told (default: 7)")
    add("--caption", type=options.whole(), default=28, help="rows of a caption (default: 28)")
    add("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), help="which")
    args = parser.parse_args(argv)
    model, params = models.load(args.weights, args.preset, args.set, ("dit",))
    results = {}
    for name in args.stages:
        make, chunks = STAGES[name]
        results[name] = cost(model, params["dit"], make(), chunks, args.caption, args.repeat)
    text = table(results)
    print(text)
    if args.write_docs:
        provenance = (
            environment.command("experiments.benchmarks.training_step", argv),
            environment.versions(),
        )
        docs.write_section(environment.device(), TITLE, docs.section(TITLE, *provenance, text))


if __name__ == "__main__":
    sys.exit(options.run(main))
