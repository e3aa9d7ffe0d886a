"""Scores of videos are the same however many devices share the frames."""

import jax
import jax.numpy as jnp
import numpy as np

from bvjax.lvbench import runner
from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.store import Store
from bvjax.sharding import make_layout
from tests.bvjax.lvbench.clips import Brightness, write_clip


def test_scores_on_eight_devices_are_those_on_one(tmp_path):
    levels = np.arange(10, 110, 4)
    for i in range(3):
        write_clip(tmp_path / "videos" / f"{i}.mkv", levels + i)
    chunks = {}
    for devices in (1, 8):
        layout = make_layout({"data": devices}, jax.devices()[:devices])
        metric = Brightness(batch=5, layout=layout)  # rounded up to the devices: 8
        job = runner.MeasurementJob(
            tmp_path / "videos", Store(tmp_path / str(devices)), [metric], segments=5, weights={}
        )
        runner.measure(job, _NoProblem())
        measured, pending_scores = runner.collect(job)
        assert not pending_scores
        chunks[devices] = np.array([m.scores[metric.name].chunks for m in measured])
    np.testing.assert_allclose(chunks[8], chunks[1], rtol=1e-6)
    np.testing.assert_allclose(chunks[1][0], levels.reshape(5, 5).mean(1), atol=1e-4)


def test_a_batch_is_sharded_over_the_devices():
    layout = make_layout({"data": 8})
    shardings = []

    def call(params, x):
        y = x @ params
        jax.debug.inspect_array_sharding(y, callback=shardings.append)
        return {"y": y, "norm": jnp.linalg.norm(y, axis=-1)}

    rng = np.random.default_rng(0)
    params, items = rng.normal(size=(4, 3)).astype("f"), rng.normal(size=(13, 4)).astype("f")
    batcher = Batcher(call, params, 10, layout)  # 16 at a time
    pending = [batcher.submit(item) for item in items]
    out = [p.value() for p in pending]
    np.testing.assert_allclose([o["y"] for o in out], items @ params, rtol=1e-5, atol=1e-6)
    assert len(shardings[0].device_set) == 8 and not shardings[0].is_fully_replicated


class _NoProblem(runner.NullProgress):
    def problem(self, sentence):
        raise AssertionError(sentence)
