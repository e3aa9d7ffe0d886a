"""The loop: exact resume, NaN stops, batch sizes, what is written when."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.profiling import Window
from bvjax.random import normal
from bvjax.train.checkpoint import Checkpoints
from bvjax.train.config import OneModelConfig
from bvjax.train.loop import EXAMPLE, fit
from bvjax.train.one_model import OneModelTask
from bvjax.train.optimizer import OptimizerConfig
from data_pipelines.counter_source import IndexedBatches, Merged

CONFIG = OneModelConfig(
    steps=6,
    global_batch_size=4,
    device_batch_size=2,
    log_every=1,
    sample_every=4,
    checkpoint_every=3,
    keep=1,
    ema_decay=0.9,
    max_skipped=0,
)
OPTIMIZER = OptimizerConfig(lr=0.05, warmup_steps=2)


class Regression:
    """y = x k + b with noise from the key; remembers the batches it was given as a sum."""

    part = "dit"
    axes = ("data",)
    frozen = ()

    def init(self, key):
        return {"dense": {"kernel": jax.random.normal(key, (3, 2)), "bias": jnp.zeros(2)}}

    def loss(self, params, batch, key):
        y = batch["x"] @ params["dense"]["kernel"] + params["dense"]["bias"]
        target = batch["y"] + 0.1 * normal(key, y.shape)
        return jnp.mean((y - target) ** 2), {"seen": jnp.sum(batch["x"])}

    def sample(self, params, folder, step):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{step}.txt").write_text(str(jax.tree.map(jnp.shape, params)))
        return {"heldout": float(step)}

    def export(self, params, folder, meta):
        raise AssertionError("the loop does not export")


def make_batch(index: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(index)
    return {
        "x": rng.normal(size=(4, 3)).astype(np.float32),
        "y": rng.normal(size=(4, 2)).astype(np.float32),
    }


def train(data, config, workdir, *start):
    return fit(OneModelTask(Regression(), OPTIMIZER, config), data, config, workdir, *start)


class Killed(Exception):
    pass


def batches(kill_at: int | None = None, poison: int | None = None) -> IndexedBatches:
    def make(index):
        if index == kill_at:
            raise Killed
        batch = make_batch(index)
        if index == poison:
            batch["x"][0, 0] = np.nan
        return batch

    return IndexedBatches(make)


def rows(workdir: Path) -> list[dict[str, str]]:
    with open(workdir / "metrics.csv", newline="") as f:
        return list(csv.DictReader(f))


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a, b))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(batches(), CONFIG, workdir)


def test_resume_is_bit_equal_to_an_unbroken_run(whole, tmp_path):
    unbroken_dir, unbroken = whole
    with pytest.raises(Killed):  # as kill -9 after 5 steps: only the checkpoint of step 3 is there
        train(batches(kill_at=5), CONFIG, tmp_path)
    data = batches()
    resumed = train(data, CONFIG, tmp_path)

    assert equal(resumed.state, unbroken.state)  # params, EMA, optimizer, step and key
    assert not equal(resumed.state.params, resumed.state.ema)
    assert data.get_state() == 6
    fixed = ("step", "seen", "loss", "grad_norm", "lr", "heldout")
    seen = [[{k: row[k] for k in fixed} for row in rows(d)] for d in (unbroken_dir, tmp_path)]
    assert seen[0] == seen[1]  # no step twice, none lost, the same batches
    assert [row["step"] for row in seen[0]] == list("123456")


def test_the_metrics_say_how_fast_the_run_is_and_where_its_time_went(whole):
    written = rows(whole[0])[-1]
    # Of 4 rows the product, and its derivative with respect to the kernel.
    work = float(written["gflops_per_device"]) / float(written["steps_per_second"])
    assert work * 1e9 == pytest.approx(2 * (2 * 4 * 3 * 2))
    shares = [float(v) for name, v in written.items() if name.startswith(("share_", "goodput"))]
    assert len(shares) == 6 and sum(shares) == pytest.approx(1.0)
    assert "mfu" not in written  # of a CPU


def test_a_resumed_run_counts_what_it_lost(tmp_path):
    with pytest.raises(Killed):
        train(batches(kill_at=5), CONFIG, tmp_path)
    killed = rows(tmp_path)
    train(batches(), CONFIG, tmp_path)
    seconds = [float(row["wall_seconds"]) for row in rows(tmp_path)]
    assert seconds == sorted(seconds)
    # What was done after the checkpoint of step 3 is part of what the run has cost.
    assert seconds[3] > float(killed[-1]["wall_seconds"]) >= seconds[2]
    starting = [float(row["share_starting"]) for row in rows(tmp_path)]
    assert starting[3] * seconds[3] > starting[2] * seconds[2]


def test_steps_are_profiled_by_their_number(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: called.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: called.append("stop"))
    data, task = batches(), OneModelTask(Regression(), OPTIMIZER, CONFIG)
    fit(task, data, CONFIG, tmp_path, profile=Window(2, 3))
    assert called == [str(tmp_path / "profile"), "stop"]


def test_a_step_is_traced_once(tmp_path, monkeypatch):
    calls, loss = [], Regression.loss

    def counted(self, *args):
        calls.append(1)
        return loss(self, *args)

    monkeypatch.setattr(Regression, "loss", counted)
    one = dataclasses.replace(CONFIG, steps=1, device_batch_size=4)
    train(batches(), one, tmp_path)
    assert len(calls) == 1


def test_a_finished_run_does_nothing_more(whole):
    workdir, unbroken = whole
    data = batches(kill_at=6)
    again = train(data, CONFIG, workdir)
    assert equal(again.state, unbroken.state)
    assert len(rows(workdir)) == 6


def test_samples_and_checkpoints_are_where_they_should_be(whole):
    workdir, result = whole
    assert sorted(p.name for p in (workdir / "samples").iterdir()) == ["4.txt", "6.txt"]
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["6"]  # keep=1
    assert list(workdir.glob("events.out.tfevents.*"))
    assert result.stopped_by is None and result.metrics["heldout"] == 6.0


@pytest.mark.parametrize("poison", [3, 5])  # in the middle, and at the very step that would save
def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, poison):
    with pytest.raises(FloatingPointError, match=f"at step {poison + 1}; .* that of step 3"):
        train(batches(poison=poison), CONFIG, tmp_path)
    assert Checkpoints(tmp_path / "checkpoints", keep=1).latest == 3
    assert [row["step"] for row in rows(tmp_path)] == [str(s) for s in range(1, poison + 1)]
    result = train(batches(), CONFIG, tmp_path)  # with the cause gone
    assert result.state.step == 6


def test_an_update_that_is_left_out_names_the_examples_of_every_part(tmp_path, caplog):
    part = lambda name, first: IndexedBatches(
        lambda index: {name: make_batch(index)[name], EXAMPLE: first + np.arange(4)}
    )
    data = Merged({"clips": part("x", 10), "pictures": part("y", 90)})
    poison = IndexedBatches(lambda i: {"z": np.full((4,), np.nan if i == 2 else 0, np.float32)})
    config = dataclasses.replace(CONFIG, max_skipped=1, steps=4, device_batch_size=4)

    class WithPoison(Regression):
        def loss(self, params, batch, key):
            loss, metrics = super().loss(params, batch, key)
            return loss + batch["z"].sum(), metrics

    data = Merged({**data._iterators, "poison": poison})
    fit(OneModelTask(WithPoison(), OPTIMIZER, config), data, config, tmp_path)
    told = "number 10 of the clips, number 11 of the clips"
    assert told in caplog.text and "number 93 of the pictures" in caplog.text


def test_a_batch_with_nan_is_left_out_named_and_counted(tmp_path, caplog):
    class Named(IndexedBatches):
        def __next__(self):
            batch = super().__next__()
            return batch | {EXAMPLE: 10 * self.get_state() + np.arange(4)}

        def name_of(self, number):
            return f"clip {number}"

    poisoned = lambda *steps: Named(lambda i: make_batch(i) | poison(i, steps))
    poison = lambda i, steps: {"x": np.full((4, 3), np.nan, np.float32)} if i in steps else {}
    config = dataclasses.replace(CONFIG, max_skipped=1)
    result = train(poisoned(3), config, tmp_path / "one")
    assert result.state.step == 6 and result.metrics["skipped_updates"] == 1
    assert "update 4 is left out" in caplog.text and "clip 40, clip 42" in caplog.text
    assert "clip 41" not in caplog.text  # of the other micro batch

    class Without(OneModelTask):
        def train_step(self, state, batch):
            new, metrics = super().train_step(state, batch)
            kept = state.replace(step=state.step + 1)
            fourth = state.step == 3
            return jax.tree.map(lambda a, b: jnp.where(fourth, b, a), new, kept), metrics

    expected = fit(Without(Regression(), OPTIMIZER, config), batches(), config, tmp_path / "want")
    jax.tree.map(  # as if the update had not been
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        result.state,
        expected.state,
    )
    with pytest.raises(FloatingPointError, match="at step 5; .* of step 3; .*max_skipped=1"):
        train(poisoned(3, 4), config, tmp_path / "two")


def test_start_from_given_parameters(tmp_path):
    params = {"dense": {"kernel": jnp.full((3, 2), 9.0), "bias": jnp.zeros(2)}}
    config = dataclasses.replace(CONFIG, steps=1)
    result = train(batches(), config, tmp_path, params)
    np.testing.assert_allclose(result.state.params["dense"]["kernel"], 9.0, atol=0.1)


def test_a_step_is_traced_once_whatever_types_a_task_begins_with(tmp_path):
    traces = []

    class Weak(Regression):
        def init(self, key):
            return {"dense": {"kernel": jnp.full((3, 2), 0.5), "bias": jnp.zeros(2)}}

    class Counted(OneModelTask):
        def train_step(self, state, batch):
            traces.append(batch)
            return super().train_step(state, batch)

    assert Weak().init(None)["dense"]["kernel"].weak_type
    fit(Counted(Weak(), OPTIMIZER, CONFIG), batches(), CONFIG, tmp_path)
    assert len(traces) == 1


def test_wrong_batches_are_refused(tmp_path):
    small = dataclasses.replace(CONFIG, global_batch_size=6)
    with pytest.raises(UserError, match="global_batch_size is 6"):
        train(batches(), small, tmp_path / "a")

    class Ends(IndexedBatches):
        def __next__(self):
            raise StopIteration

    with pytest.raises(UserError, match="the data ended before step 1 of 6"):
        train(Ends(make_batch), CONFIG, tmp_path / "b")
