"""What each policy does, against schedules written by hand; what a run with one of them does."""

import dataclasses

import jax
import numpy as np
import pytest

from bvjax import policies
from bvjax.chunking import ChunkGrid
from bvjax.cli import main
from bvjax.config import PolicyConfig
from bvjax.errors import UserError
from bvjax.generate import host_bank, steps
from bvjax.generate.checks import check_model
from bvjax.generate.conditions import Conditions, alike
from bvjax.generate.rollout import rebuild_bank, rollout, stream
from bvjax.overrides import from_dict, to_dict
from bvjax.policies import NOT_BEGUN, Commit, configure, level_matrix
from bvjax.presets import get_preset
from tests.support import few_step
from tests.support.random_params import random_dit

KEY = jax.random.key(11)
MINI = get_preset("mini")


def stories(model, count, seed=0, same=()):
    """Conditions of `count` captions; rows in `same` have the caption of the row before."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(count + 1, model.text.max_length, model.text.dim)).astype(np.float32)
    text[:, 20:] = 0
    for row in same:
        text[row] = text[row - 1]
    return Conditions(text=text[:-1], embedding=text[:-1].mean(1), null_text=text[-1:])


def seen(model, count):
    """Ids that each chunk sees in the bank, by the model's own selection, without weights."""
    conditions, grid = stories(model, count), ChunkGrid.of(model, count)
    entries = [steps.entry_inputs(model, conditions, KEY, None, i) for i in grid.piece_ids]
    visits, _ = host_bank.plan(model, entries)
    return {i: sorted(host_bank._ids(visits[i].seen)) for i in grid.chunk_ids}


def test_blockvid_is_the_model_as_it_is():
    assert configure(MINI) == MINI
    assert configure(MINI, ["policy.name=blockvid"]) == MINI
    model = configure(MINI, ["sampler.steps=3", "memory.tau=0.97"])
    assert model.memory.tau == 0.97
    levels = level_matrix(policies.rounds(model, 2), (1, 2), 3)
    before = NOT_BEGUN
    assert levels.tolist() == [
        [0, before], [1, before], [2, before], [3, 0], [3, 1], [3, 2]
    ]  # fmt: skip
    turns = list(policies.rounds(model, 2))
    assert [turn.emits for turn in turns] == [(1,), (2,)]
    assert [turn.commits for turn in turns] == [(Commit(1, 0),), (Commit(2, 1),)]
    assert all(turn.alone(3) and not turn.refresh and not turn.restart for turn in turns)


def test_rolling_sees_the_last_chunks_whole():
    model = configure(MINI, ["policy.name=rolling", "policy.window=3"])
    assert seen(model, 6) == {
        1: [], 2: [1], 3: [1, 2], 4: [1, 2, 3], 5: [2, 3, 4], 6: [3, 4, 5]
    }  # fmt: skip
    assert model.memory.tau == 1.0 and model.retrieval.dense_recent
    assert model.memory.capacity == ChunkGrid.of(model).tokens_per_chunk
    sink = configure(MINI, ["policy.name=rolling", "policy.window=3", "policy.sink=true"])
    assert seen(sink, 5) == {1: [0], 2: [0, 1], 3: [0, 1, 2], 4: [0, 1, 2, 3], 5: [0, 2, 3, 4]}
    check_model(model), check_model(sink)


def test_rolling_has_self_forcings_numbers():
    """Self-Forcing looks at 21 latents, 3 of them its own, in a cache of 32760 tokens."""
    preset = get_preset("self-forcing")
    model = configure(preset, ["policy.name=rolling"])
    same = ("memory", "retrieval", "build", "sampler")
    assert {name: getattr(model, name) for name in same} == {
        name: getattr(preset, name) for name in same
    }
    assert model.memory.slots * model.memory.capacity == 32760
    joined = configure(preset, ["policy.name=rolling", "policy.window=2", "policy.sink=true"])
    assert seen(joined, 6)[5] == [0, 3, 4]


def test_longlive_has_its_numbers_and_encodes_the_window_again():
    """Its window is 12 latents: a sink of 3, two chunks of 3 and the chunk itself."""
    preset = get_preset("longlive")
    model = configure(preset, ["policy.name=longlive"])
    assert model.memory == preset.memory and model.retrieval == preset.retrieval
    captions = (0, 0, 0, 3, 3, 5)  # another caption for chunk ids 3 and 5
    turns = list(policies.rounds(model, 6, captions))
    assert [turn.refresh for turn in turns] == [
        (), (), (), (Commit(1, 3), Commit(2, 3)), (), (Commit(3, 5), Commit(4, 5))
    ]  # fmt: skip
    mini = configure(MINI, ["policy.name=longlive", "policy.window=2"])
    turns = list(policies.rounds(mini, 3, (0, 1, 2)))
    assert [turn.refresh for turn in turns] == [
        (), (Commit(1, 1),), (Commit(1, 2), Commit(2, 2))
    ]  # fmt: skip


def test_sparse_keeps_what_covers_tau():
    model = configure(MINI, ["policy.name=sparse", "policy.window=2", "memory.tau=0.97"])
    assert (model.memory.tau, model.retrieval.dense_recent) == (0.97, False)
    assert seen(model, 4) == {1: [], 2: [1], 3: [1, 2], 4: [2, 3]}
    assert configure(MINI, ["policy.name=sparse"]).memory.tau == 0.98


def test_full_sees_all_there_is():
    model = configure(MINI, ["policy.name=full"])
    assert seen(model, 15) == {i: list(range(i)) for i in range(1, 16)}
    check_model(model, 15)
    with pytest.raises(UserError, match="full sees 14 chunks, .* 16: set policy.window=15"):
        check_model(model, 16)
    check_model(configure(MINI, ["policy.name=full", "policy.window=19"]), 20)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["policy.name=magic"], "policy.name is 'magic'; it can be blockvid, rolling"),
        (
            ["policy.window=3"],
            "policy.window is 3, which policy blockvid does not read; it is of roll",
        ),
        (["policy.name=rolling", "policy.window=-1"], "policy.window is -1; it must be 1 or more"),
        (["policy.name=longlive", "policy.sink=true"], "which policy longlive does not read"),
    ],
)
def test_refusals(overrides, told):
    with pytest.raises(UserError, match=told):
        configure(MINI, overrides)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="with policy rolling give policy.window alone"):
        check_model(configure(MINI, ["policy.name=rolling", "retrieval.num_recent=9"]))
    with pytest.raises(UserError, match="encodes entries again"):
        check_model(configure(MINI, ["policy.name=longlive", "memory.offload=host"]))
    model = dataclasses.replace(MINI, policy=PolicyConfig(name="none"))
    with pytest.raises(UserError, match="policy.name is 'none'"):
        check_model(model)


def test_a_configuration_without_the_section_means_blockvid():
    content = to_dict(MINI)
    del content["policy"]
    assert from_dict(type(MINI), content) == MINI


# ---- made by weights ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def world():
    # In the first layer keys know nothing of captions yet.
    dit = dataclasses.replace(few_step.MODEL.dit, num_layers=2)
    model = dataclasses.replace(few_step.MODEL, dit=dit)
    return model, random_dit(model, 1)


def make(world, overrides, count=4, same=(), **options):
    model, params = world
    model = configure(model, overrides)
    check_model(model, count)
    return list(stream(params, model, stories(model, count, same=same), KEY, **options))


def test_a_chunk_depends_on_its_window_alone(world):
    overrides = ["policy.name=rolling", "policy.window=2", "policy.sink=true"]
    pieces = make(world, overrides)
    assert [np.sum(piece.report.valid) for piece in pieces] == [0, 1, 2, 3, 3]
    done = {piece.chunk_id: piece.latents for piece in pieces[:4]}
    other = make(world, overrides, done=done | {1: done[1] + 1.0})
    np.testing.assert_array_equal(other[4].latents, pieces[4].latents)
    for seen_by_it in (0, 2, 3):
        changed = make(world, overrides, done=done | {seen_by_it: done[seen_by_it] + 1.0})
        assert np.abs(np.asarray(changed[4].latents) - pieces[4].latents).max() > 1e-3


def test_longlive_encodes_under_the_new_caption(world):
    model, params = world
    model = configure(model, ["policy.name=longlive", "policy.window=2"])
    conditions = stories(model, 4, same=(1, 2))  # another caption for chunk 4 alone
    assert alike(conditions) == (0, 0, 0, 3)
    pieces = list(stream(params, model, conditions, KEY))
    rolling = configure(world[0], ["policy.name=rolling", "policy.window=2", "policy.sink=true"])
    plain = list(stream(params, rolling, conditions, KEY))
    for i in range(4):
        np.testing.assert_array_equal(pieces[i].latents, plain[i].latents)
    assert np.abs(np.asarray(pieces[4].latents) - plain[4].latents).max() > 1e-4
    # the same as if chunks 2 and 3 had had the new caption when they were written
    latents = {piece.chunk_id: piece.latents for piece in pieces}
    told = conditions.replace(
        text=conditions.text[[0, 3, 3, 3]], embedding=conditions.embedding[[0, 3, 3, 3]]
    )
    expected = rebuild_bank(params, rolling, told, KEY, {i: latents[i] for i in range(5)})
    got = rebuild_bank(params, model, conditions, KEY, latents)
    for slot in range(4):
        if int(got.bank.chunk_id[0, slot]) in (0, 2, 3, 4):
            np.testing.assert_array_equal(got.bank.keys[:, :, slot], expected.bank.keys[:, :, slot])
    # and going on from the third chunk gives the same fourth
    done = {i: latents[i] for i in range(4)}
    again = list(stream(params, model, conditions, KEY, done=done))
    np.testing.assert_array_equal(again[4].latents, pieces[4].latents)
    with pytest.raises(UserError, match="policy longlive does more"):
        rollout(params, model, conditions, KEY)


# ---- segments, sinks, overlaps --------------------------------------------------------------------
def test_causvid_begins_segments_with_the_end_of_the_last():
    """7 chunks of 3 latents are the 21 that it was trained with; each segment adds 6."""
    model = configure(get_preset("self-forcing"), ["policy.name=causvid"])
    assert model.policy.window * ChunkGrid.of(model).latents_per_chunk == 21
    turns = list(policies.rounds(model, 14))
    assert [turn.origin for turn in turns] == [0] * 7 + [6] * 6 + [12]
    assert [turn.emits[0] for turn in turns if turn.restart] == [7, 13]
    assert turns[7].refresh == (Commit(6, 6),) and not turns[8].refresh
    check_model(model, 14)
    mini = configure(MINI, ["policy.name=causvid", "policy.window=3"])
    turns = list(policies.rounds(mini, 6))
    assert [(turn.emits[0] - turn.origin, turn.restart) for turn in turns] == [
        (1, False), (2, False), (3, False), (2, True), (3, False), (2, True)
    ]  # fmt: skip
    assert mini.memory.anchor and mini.retrieval.num_recent == 2
    with pytest.raises(UserError, match="a segment of policy causvid has 2 chunks or more"):
        check_model(configure(MINI, ["policy.name=causvid", "policy.window=1"]))


def test_reward_forcing_takes_in_what_leaves():
    """Attention reaches 9 latents: a sink of 3, 3 before the chunk and its own."""
    model = configure(get_preset("self-forcing"), ["policy.name=reward_forcing"])
    length = ChunkGrid.of(model).latents_per_chunk
    assert length * (model.memory.anchor + model.retrieval.num_recent + 1) == 9
    assert model.policy.decay == 0.999
    turns = list(policies.rounds(model, 5))
    assert [turn.absorb for turn in turns] == [(), (), (), (1,), (2,)]
    assert seen(model, 5)[4] == [0, 3]
    with pytest.raises(UserError, match="policy.decay is 1.5; it must be above 0 and below 1"):
        check_model(configure(MINI, ["policy.name=reward_forcing", "policy.decay=1.5"]))


def test_skyreels_has_its_numbers():
    preset = get_preset("skyreels-1.3b")
    model = configure(preset, ["policy.name=skyreels"])
    assert dataclasses.replace(model, policy=preset.policy) == preset
    assert ChunkGrid.of(model).window_latents == 25 and ChunkGrid.of(model).overlap_latents == 5
    late = configure(preset, ["policy.name=skyreels", "policy.lag=5"])
    assert (late.sampler.ar_step, late.sampler.causal_block) == (5, 5)
    mini = configure(MINI, ["policy.name=skyreels", "policy.lag=2"])
    check_model(mini, 3)
    assert (mini.sampler.causal_block, mini.chunk.overlap_frames) == (1, 17)
    assert list(ChunkGrid.of(mini, 3).piece_ids) == [1, 2, 3]


def test_the_command_line_chooses_one_and_plans_what_it_can(tmp_path, capsys):
    story = tmp_path / "story.json"
    story.write_text('["A fox.", "An owl."]')
    run = ["generate", "--story", str(story), "--out", str(tmp_path / "run")]
    for words, told in (
        (["--policy", "magic"], "policy.name is 'magic'; it can be blockvid, rolling"),
        (["--policy", "full", "--set", "policy.name=full"], "are both given; give one of them"),
        (["--policy", "full", "--set", "policy.window=1", "--chunks", "3"], "has 1 to 2"),
    ):
        assert main([*run, *words]) == 2
        assert told in " ".join(capsys.readouterr().err.split())
    plan = ["plan", "--preset", "mini", "--topology", "v5e:2x2", "--set", "policy.name=lct"]
    assert main(plan) == 2 and "this one makes windows of chunks" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
