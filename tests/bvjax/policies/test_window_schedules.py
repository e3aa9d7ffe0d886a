"""Level matrices and context plans of policies of windows, against schedules written by hand."""

import numpy as np
import pytest

from bvjax import policies
from bvjax.chunking import ChunkGrid
from bvjax.diffusion import solvers
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.policies import NULL, Commit, configure, emission_order, level_matrix
from bvjax.policies import framepack as packing
from bvjax.policies import magi as magi1
from bvjax.policies.schedule import Pack
from bvjax.presets import get_preset

MINI = get_preset("mini")


def turns_of(model, count):
    check_model(model, count)
    return list(policies.rounds(model, count))


def levels(model, count, every=1):
    """The level matrix, a row for every so many passes."""
    matrix = level_matrix(turns_of(model, count), range(1, count + 1), model.sampler.steps)
    return matrix[::every].tolist()


def windows(turns):
    """Chunk ids of each round."""
    return [tuple(place.chunk for place in turn.places) for turn in turns]


def seen(turn):
    return {p.chunk: (p.sees, p.entries) for p in turn.places}


# ---- MAGI-1 ---------------------------------------------------------------------------------------
def test_magi_levels_are_stages_apart():
    model = configure(MINI, ["policy.name=magi", "sampler.steps=8"])
    x = policies.NOT_BEGUN
    assert levels(model, 3) == [
        [0, x, x], [1, x, x],
        [2, 0, x], [3, 1, x],
        [4, 2, 0], [5, 3, 1],
        [6, 4, 2], [7, 5, 3],
        [8, 6, 4], [8, 7, 5],
        [8, 8, 6], [8, 8, 7],
    ]  # fmt: skip


def test_magi_has_the_published_numbers():
    """64 steps are 16 (N + 3) passes; ranges 5, 4, 3, 2 with the chunk itself; t = u^2, shifted by 3."""
    model = configure(MINI, ["policy.name=magi", "sampler.steps=64"])
    turns = turns_of(model, 7)
    assert sum(turn.passes for turn in turns) == 16 * (7 + 3)
    assert windows(turns)[:5] == [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)]
    assert windows(turns)[-1] == (7,)
    starts = [[place.start for place in turn.places] for turn in turns]
    assert starts[3] == [48, 32, 16, 0] and starts[4] == [48, 32, 16, 0]
    # chunk 6 from its noisiest stage on sees 4, 3, 2 and 1 chunks before it
    stages = [seen(turn)[6] for turn in turns if 6 in windows([turn])[0]]
    assert stages == [((3, 4, 5), (2,)), ((4, 5), (3,)), ((5,), (4,)), ((), (5,))]
    assert [turn.commits for turn in turns][3:5] == [(Commit(1, NULL),), (Commit(2, NULL),)]
    assert [turn.emits for turn in turns] == [()] * 3 + [(i,) for i in range(1, 8)]
    assert (model.build.context, model.build.label) == ("none", 1e-4)
    u = np.linspace(0, 1, 65)
    t = u**2 / 3 / (1 - 2 * u**2 / 3)
    np.testing.assert_allclose(solvers.sigmas(model.sampler), 1 - t, atol=1e-6)
    scales = magi1.scales(model)
    assert scales[0] == (1.5, 7.5) and scales[-1] == (1.0, 0.0)
    assert sum(scale == (1.5, 7.5) for scale in scales) == np.sum(t[:-1] < 0.3)
    assert set(magi1.scales(configure(model, ["guidance.scale=1.0"]))) == {(1.0, 1.0)}


# ---- PA-VDM ---------------------------------------------------------------------------------------
def test_pa_vdm_is_a_clean_chunk_and_six_noisy_ones():
    model = configure(MINI, ["policy.name=pa_vdm", "sampler.steps=30", "sampler.shift=1.0"])
    turns = turns_of(model, 9)
    assert windows(turns)[:3] == [(1,), (1, 2), (1, 2, 3)]
    full = turns[7]  # two chunks came out
    assert windows([full]) == [(2, 3, 4, 5, 6, 7, 8)]
    sigma = solvers.sigmas(model.sampler)
    assert [place.start for place in full.places] == [30, 25, 20, 15, 10, 5, 0]
    np.testing.assert_allclose(
        [0.0, *sigma[[25, 20, 15, 10, 5, 0]]], np.arange(7) / 6, atol=1e-6
    )  # levels linspace(0, 1, 31), a sixth apart
    assert full.passes == 5 and full.emits == (3,) and not full.commits
    assert seen(full)[5] == ((2, 3, 4, 6, 7, 8), ())
    assert seen(turns[0])[1] == ((), (0,)) and turns[0].entry_times == {0: 0}
    assert windows(turns)[-1] == (8, 9) and sum(turn.passes for turn in turns) == 5 * (9 + 5)
    assert [place.time for place in full.places] == [1 + 8 * i for i in range(7)]


def test_pa_vdm_levels():
    model = configure(MINI, ["policy.name=pa_vdm", "policy.window=2", "sampler.steps=4"])
    x = policies.NOT_BEGUN
    assert levels(model, 3) == [
        [0, x, x], [1, x, x], [2, 0, x], [3, 1, x], [4, 2, 0], [4, 3, 1], [4, 4, 2], [4, 4, 3]
    ]  # fmt: skip
    with pytest.raises(UserError, match="needs a multiple of policy.window = 2"):
        check_model(configure(model, ["sampler.steps=5"]))


# ---- Rolling Forcing --------------------------------------------------------------------------------
def test_rolling_forcing_is_a_diagonal():
    model = configure(get_preset("self-forcing"), ["policy.name=rolling_forcing"])
    assert model.sampler.few_step == (1000.0, 800.0, 600.0, 400.0, 200.0)
    turns = turns_of(model, 9)
    assert len(turns) == 9 + 4 and {turn.passes for turn in turns} == {1}
    assert [[p.start for p in turn.places] for turn in turns[:6]] == [
        [0], [1, 0], [2, 1, 0], [3, 2, 1, 0], [4, 3, 2, 1, 0], [4, 3, 2, 1, 0]
    ]  # fmt: skip
    seventh = turns[7]
    assert windows([seventh]) == [(3, 4, 5, 6, 7)]
    assert seen(seventh)[3] == ((4, 5, 6, 7), (0, 2))
    assert seen(seventh)[7] == ((3, 4, 5, 6), (0, 2))
    assert seventh.emits == (3,) and seventh.commits == (Commit(3, 3),)
    length = ChunkGrid.of(model).latents_per_chunk
    assert length * (len(seventh.places) + 2) == 21  # latents that attention reaches
    assert model.memory.anchor and model.retrieval.num_recent == 1
    many = configure(MINI, ["policy.name=rolling_forcing"])
    assert [p.start for p in turns_of(many, 6)[4].places] == [16, 12, 8, 4, 0]


# ---- FramePack --------------------------------------------------------------------------------------
def test_framepack_makes_the_last_section_first():
    model = configure(MINI, ["policy.name=framepack"])
    assert emission_order(model, 5) == [0, 5, 4, 3, 2, 1]
    turns = turns_of(model, 5)
    assert [turn.places[0].chunk for turn in turns] == [5, 4, 3, 2, 1]
    assert packing.paddings(5) == [3, 2, 2, 1, 0] and packing.paddings(3) == [2, 1, 0]
    assert packing.paddings(4) == [3, 2, 1, 0]
    assert turns[0].packed == (Pack((0,), (1, 1, 1), 0),)
    # section 4 owns frames 25 to 32; two sections away from the start, it begins at 1 + 2 x 8
    one, four, sixteen = 33, range(34, 36), range(36, 41)
    assert turns[1].places[0].time == 17
    assert turns[1].packed == (
        Pack((0,), (1, 1, 1), 0),
        Pack((one,), (1, 1, 1), 25),
        Pack(tuple(four), (2, 2, 2), 26),
        Pack(tuple(sixteen), (4, 4, 4), 28),
    )
    assert not turns[1].alone(model.sampler.steps)
    assert not model.memory.anchor and not any(turn.commits for turn in turns)


def test_framepack_f1_goes_forward():
    """Times as the released code splits them: start, 16, 2, 1, then the section at 20."""
    model = configure(MINI, ["policy.name=framepack_f1"])
    turns = turns_of(model, 4)
    assert emission_order(model, 4) == [0, 1, 2, 3, 4]
    assert {turn.places[0].time for turn in turns} == {20}
    assert turns[3].packed == (  # section 4 begins at frame 25
        Pack((0,), (1, 1, 1), 0),
        Pack((24,), (1, 1, 1), 19),
        Pack((22, 23), (2, 2, 2), 17),
        Pack(tuple(range(6, 22)), (4, 4, 4), 1),
    )
    assert turns[0].packed == (Pack((0,), (1, 1, 1), 0), Pack((0,), (1, 1, 1), 19))
    assert turns[1].packed[-1] == Pack(tuple(range(0, 6)), (4, 4, 4), 11)
    with pytest.raises(UserError, match="begins with a frame by itself"):
        check_model(configure(get_preset("self-forcing"), ["policy.name=framepack"]))
    with pytest.raises(UserError, match="packs the past into 40 tokens, and a chunk has 32"):
        check_model(configure(MINI, ["policy.name=framepack", "chunk.frames=8"]))
    # at 480p: three frames' worth for any past, as published: 2 whole, 390 and 416 tokens
    grid = ChunkGrid.of(get_preset("wan-1.3b"))
    assert [packing._tokens(grid, *pack) for pack in packing.PACKS] == [1560, 390, 416]


# ---- LCT --------------------------------------------------------------------------------------------
def test_lct_keeps_half_a_window():
    model = configure(MINI, ["policy.name=lct", "sampler.steps=2"])
    turns = turns_of(model, 7)
    assert windows(turns) == [(1, 2, 3, 4), (3, 4, 5, 6), (5, 6, 7)]
    assert [[p.start for p in turn.places] for turn in turns] == [
        [0, 0, 0, 0], [2, 2, 0, 0], [2, 2, 0]
    ]  # fmt: skip
    assert [turn.emits for turn in turns] == [(1, 2, 3, 4), (5, 6), (7,)]
    assert seen(turns[1])[5] == ((3, 4, 6), ())
    assert [place.caption for place in turns[1].places] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("memory.offload=host", "keeps its bank on the device"),
        ("sampler.ar_step=1", "sampler.ar_step must be 0"),
        ("guidance.memory=2.0", "guidance.memory=2 does nothing"),
        ("sampler.causal_block=2", "sampler.causal_block must be 1"),
    ],
)
def test_windows_refuse_what_they_cannot_have(override, told):
    with pytest.raises(UserError, match=told):
        check_model(configure(MINI, ["policy.name=pa_vdm", "sampler.steps=30", override]))
