"""Checkpoints that were damaged, runs that are started again for other numbers of steps, samples that fail."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.train.checkpoint import CHECKSUMS, Checkpoints, restore_newest, steps_of
from bvjax.train.config import OneModelConfig
from bvjax.train.loop import fit
from bvjax.train.one_model import OneModelTask
from bvjax.train.optimizer import OptimizerConfig
from data_pipelines.counter_source import IndexedBatches

CONFIG = OneModelConfig(
    steps=6,
    global_batch_size=4,
    device_batch_size=4,
    log_every=1,
    sample_every=0,
    checkpoint_every=2,
    keep=3,
)
OPTIMIZER = OptimizerConfig(lr=0.1, milestones=(0.5,), factors=(0.5,))
COSINE = OptimizerConfig(lr=0.1, schedule="cosine", final_factor=0.1)


class Line:
    """y = x k, large enough for Orbax to write its numbers into files of their own."""

    part, axes, frozen = "dit", ("data",), ()

    def init(self, key):
        return {"dense": {"kernel": jax.random.normal(key, (30, 20))}}

    def loss(self, params, batch, key):
        return jnp.mean((batch["x"] @ params["dense"]["kernel"] - 1.0) ** 2), {}

    def sample(self, params, folder, step):
        raise IndexError("index 4 is out of bounds")


def batches() -> IndexedBatches:
    draw = lambda i: np.random.default_rng(i).normal(size=(4, 30)).astype(np.float32)
    return IndexedBatches(lambda i: {"x": draw(i)})


def train(workdir: Path, steps: int = 6, optimizer=OPTIMIZER, **options):
    config = dataclasses.replace(CONFIG, steps=steps)
    return fit(OneModelTask(Line(), optimizer, config), batches(), config, workdir, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the finished run, with checkpoints of steps 2, 4 and 6."""
    return Path(shutil.copytree(whole[0], tmp_path / "run"))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def arrays(folder: Path) -> Path:
    """A file that holds numbers."""
    return max((folder / "state").glob("**/d/*"), key=lambda p: (p.stat().st_size, p))


def make_old(checkpoint: Path):
    """As it was written before checkpoints had checksums and plans."""
    (checkpoint / CHECKSUMS).unlink()
    data = checkpoint / "data" / "metadata"
    content = json.loads(data.read_text())
    del content["plan"]
    data.write_text(json.dumps(content))


def rates(workdir: Path) -> list[float]:
    lines = (workdir / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("lr")
    return [float(line.split(",")[column]) for line in lines[1:]]


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize(
    "which", [arrays, lambda c: c / "data/metadata", lambda c: c / "state/_METADATA"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_gone_on_from(
    run, whole, caplog, damage, which
):
    newest = run / "checkpoints" / "6"
    path = which(newest)
    damage(path)
    with caplog.at_level(logging.WARNING, "absl"):
        result = train(run)
    (warning,) = (r.getMessage() for r in caplog.records if "damaged" in r.getMessage())
    assert path.relative_to(newest).as_posix() in warning and "going on from step 4" in warning
    jax.tree.map(np.testing.assert_array_equal, result.state, whole[1].state)
    assert steps_of(run / "checkpoints") == [6, 4, 2]
    assert (run / "checkpoints" / "6.damaged").is_dir()


def test_when_no_checkpoint_is_intact_one_sentence_says_so(run):
    for step in (2, 4, 6):
        flip(arrays(run / "checkpoints" / str(step)))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"no checkpoint in .* is intact \(6: state/.*; 4: .*; 2: "):
        train(run, begin=lambda: pytest.fail("nothing may be written"))
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_damaged_checkpoint_that_is_not_the_newest_does_no_harm(run, whole):
    for path in (run / "checkpoints" / "4").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff{")
    (run / "checkpoints" / "note.txt").write_text("not a checkpoint")
    assert train(run, 8, extend=True).state.step == 8
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")
    with pytest.raises(UserError, match="checkpoints is a file"):
        train(run)


@pytest.mark.parametrize("damage", [None, cut, Path.unlink])
def test_older_checkpoints_are_restored_unless_they_cannot_be_read(run, whole, caplog, damage):
    """Without checksums one line says what could not be checked."""
    for step in (2, 4, 6):
        make_old(run / "checkpoints" / str(step))
    if damage is not None:
        damage(arrays(run / "checkpoints" / "6"))
    with caplog.at_level(logging.WARNING, "absl"):
        result = train(run)
    jax.tree.map(np.testing.assert_array_equal, result.state, whole[1].state)
    assert (run / "checkpoints" / "6.damaged").exists() == (damage is not None)
    (line,) = (r.getMessage() for r in caplog.records if "has no checksums" in r.getMessage())
    assert f"checkpoints/{4 if damage else 6} has no checksums" in line and "no plan" in line


def test_a_checkpoint_with_checksums_says_nothing(run, caplog):
    with caplog.at_level(logging.WARNING, "absl"):
        train(run)
    assert not caplog.records


@pytest.mark.parametrize(("factor", "step"), [(np.nan, 7), (1.0, 6)])
def test_a_state_that_is_not_finite_or_of_another_step_is_damaged(run, whole, factor, step):
    state = jax.tree.map(np.asarray, whole[1].state)
    poisoned = state.replace(
        step=np.int32(step), params=jax.tree.map(lambda x: x * np.float32(factor), state.params)
    )
    saved = Checkpoints(run / "checkpoints", keep=9)
    saved.save(7, poisoned, 7)
    saved.close()
    found = restore_newest(run / "checkpoints", jax.eval_shape(lambda: state))
    why = "its state is not finite" if step == 7 else "its state is that of step 6"
    assert (found.saved.step, found.damaged) == (6, {7: why})


def test_an_intact_checkpoint_of_another_model_is_not_damaged(run, whole):
    like = jax.eval_shape(lambda: whole[1].state)
    other = like.replace(params={"dense": {"kernel": jax.ShapeDtypeStruct((9, 9), jnp.float32)}})
    with pytest.raises(UserError, match="checkpoints/6 is intact, but its state does not fit"):
        restore_newest(run / "checkpoints", other)


# ---- other numbers of steps ---------------------------------------------------------------------


def test_other_steps_are_refused_unless_the_run_is_extended(run, caplog):
    with pytest.raises(
        UserError, match="train.steps is 4, but this run has made 6 updates already"
    ):
        train(run, 4, extend=True)
    with pytest.raises(
        UserError, match="begun with 6; with `extend` it makes 10: .* stays at 0.05"
    ):
        train(run, 10)
    with caplog.at_level(logging.WARNING, "absl"):
        assert train(run, 8, extend=True).state.step == 8
    assert "8 updates instead of 6: the learning rate stays at 0.05" in caplog.text
    # The drop at step 3 has not moved, and there is no other.
    np.testing.assert_allclose(rates(run), [0.1] * 3 + [0.05] * 5, rtol=1e-6)
    assert train(run, 8).state.step == 8  # the checkpoint knows
    with pytest.raises(UserError, match="begun with 8; with `extend` it makes 9"):
        train(run, 9)


def test_a_shorter_run_follows_the_schedule_that_it_was_begun_with(tmp_path):
    class Stop(Exception):
        pass

    def some():
        raise Stop

    train(tmp_path / "whole", 6, COSINE)
    data = batches()
    make = data._make_batch
    data._make_batch = lambda i: some() if i >= 3 else make(i)
    with pytest.raises(Stop):
        fit(OneModelTask(Line(), COSINE, CONFIG), data, CONFIG, tmp_path / "cut")
    with pytest.raises(UserError, match="makes 5: the learning rate follows its schedule of 6 upd"):
        train(tmp_path / "cut", 5, COSINE)
    train(tmp_path / "cut", 5, COSINE, extend=True)
    np.testing.assert_allclose(rates(tmp_path / "cut"), rates(tmp_path / "whole")[:5], rtol=1e-6)
    train(tmp_path / "cut", 9, COSINE, extend=True)
    np.testing.assert_allclose(
        rates(tmp_path / "cut")[5:], [*rates(tmp_path / "whole")[5:], *[0.01] * 3], rtol=1e-5
    )


def test_a_schedule_that_ends_at_zero_is_not_extended(tmp_path):
    silent = dataclasses.replace(COSINE, final_factor=0.0)
    train(tmp_path, 2, silent)
    with pytest.raises(UserError, match="the learning rate of this run is 0 after 2 updates"):
        train(tmp_path, 4, silent, extend=True)


def test_older_checkpoints_take_their_steps_from_the_config_of_the_run(run):
    for step in (2, 4, 6):
        make_old(run / "checkpoints" / str(step))
    with pytest.raises(UserError, match="begun with 6; with `extend` it makes 8"):
        train(run, 8, begun_with=6)
    assert train(run, 8, begun_with=6, extend=True).state.step == 8
    np.testing.assert_allclose(rates(run), [0.1] * 3 + [0.05] * 5, rtol=1e-6)


# ---- what comes after the last step ---------------------------------------------------------------


def test_samples_that_fail_do_not_end_the_training(tmp_path, caplog):
    config = dataclasses.replace(CONFIG, steps=4, sample_every=2)
    with caplog.at_level(logging.WARNING, "absl"):
        assert (
            fit(OneModelTask(Line(), OPTIMIZER, config), batches(), config, tmp_path).state.step
            == 4
        )
    assert "no samples of step 4, the training goes on (IndexError: index 4" in caplog.text


# ---- any bytes ------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    data=st.data(),
    how=st.sampled_from(["flip", "cut", "replace", "key", "remove"]),
    old=st.booleans(),
)
def test_whatever_is_in_a_checkpoint_one_sentence_or_an_intact_state(
    whole, tmp_path_factory, data, how, old
):
    """Nothing is written by reading, and with checksums nothing but what was saved is ever restored."""
    root = Path(shutil.copytree(whole[0] / "checkpoints", tmp_path_factory.mktemp("any") / "c"))
    shutil.rmtree(root / "2"), shutil.rmtree(root / "4")
    if old:
        make_old(root / "6")
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "commit_success.txt")
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    if how == "remove":
        path.unlink()
    elif how == "key" and path.name in ("metadata", CHECKSUMS):
        found = json.loads(content)
        found[data.draw(st.sampled_from(sorted(found) + ["plan", "base64"]))] = data.draw(VALUES)
        path.write_text(json.dumps(found))
    elif how == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    elif how == "flip" and content:
        at = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    else:
        path.write_bytes(data.draw(st.binary(max_size=40)))
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), whole[1].state
    )
    try:
        found = restore_newest(root, like, batches())
        if not old and (root / "6" / CHECKSUMS).exists():
            jax.tree.map(np.testing.assert_array_equal, found.state, whole[1].state)
    except UserError as error:
        assert str(error).startswith("no checkpoint in ") and "\n" not in str(error)
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
    shutil.rmtree(root)
