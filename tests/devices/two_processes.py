"""Run by `test_processes.py`, once per process: a short video on a mesh over both of them."""

from __future__ import annotations

import sys

import jax
import numpy as np

from bvjax.generate.conditions import Conditions
from bvjax.generate.rollout import stream
from bvjax.sharding import make_layout
from tests.conftest import tiny_model, tiny_params

MODEL = tiny_model(memory={"capacity": 8}, sampler={"steps": 2})
SIZES = dict(data=2, context=2, tensor=2)


def video() -> list[np.ndarray]:
    """Latents of two chunks and the frame before them."""
    rng = np.random.default_rng(0)
    width, rows = MODEL.text.dim, MODEL.text.max_length
    conditions = Conditions(
        text=rng.normal(size=(2, rows, width)).astype(np.float32),
        embedding=rng.normal(size=(2, width)).astype(np.float32),
        null_text=np.zeros((1, rows, width), np.float32),
    )
    layout, params = make_layout(SIZES), jax.tree.map(np.asarray, tiny_params()["dit"])
    placed = jax.tree.map(
        lambda x, where: jax.make_array_from_callback(x.shape, where, lambda i: x[i]),
        params,
        layout.parameters(params),
    )
    pieces = stream(placed, MODEL, conditions, jax.random.key(0), layout=layout)
    return [np.asarray(piece.latents) for piece in pieces]


if __name__ == "__main__":
    address, process, out = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=int(process))
    assert jax.device_count() == 8 and jax.local_device_count() == 4
    np.savez(out, *video())
