"""Work and bytes of a step of training against sums written out."""

import dataclasses

import pytest

from bvjax.overrides import apply_overrides
from bvjax.plan.training import inputs, make_objective
from bvjax.plan.training_costs import counts, memory_parts, rows_seen, step_flops
from bvjax.plan.training_report import choose_mesh, remedies
from bvjax.presets import get_preset
from bvjax.sharding import ONE_DEVICE
from bvjax.train.lora import LoraConfig

MINI, WAN = get_preset("mini"), get_preset("wan-1.3b")
VIDEOS, CHUNKS = 2, 3


def test_flops_forward_recomputed_and_backward():
    model = apply_overrides(MINI, ["dit.remat=full"])
    found = step_flops(make_objective(model, ONE_DEVICE), VIDEOS, CHUNKS)
    d, layers, words = MINI.dit.dim, MINI.dit.num_layers, MINI.text.max_length
    # Each chunk once clean and twice noisy, with a caption each; the anchor once as an entry
    # and twice alone (a caption for both, whose keys and values are made once).
    tokens, captions = 3 * CHUNKS * 128 + 3 * 16, 3 * CHUNKS + 2
    linear = 2 * tokens * d * (6 * d + 2 * MINI.dit.ffn_dim) + 2 * captions * words * d * 2 * d
    assert found["projections, forward"] == VIDEOS * layers * linear
    assert found["projections, recomputed"] == found["projections, forward"]
    assert found["projections, backward"] == pytest.approx(2 * VIDEOS * layers * linear, rel=0.02)
    assert found["self-attention, backward"] > found["self-attention, forward"] > 0


@pytest.mark.parametrize(
    "targets, at_once, denoised, encoded", [(0, 0, 6, 3), (0, 2, 2, 3), (1, 0, 1, 3)]
)
def test_memory_by_part(targets, at_once, denoised, encoded):
    """Parts are of one video, whatever the batch: the others wait."""
    objective = make_objective(WAN, ONE_DEVICE, targets)
    forcing = dataclasses.replace(objective.forcing, targets_at_once=at_once)
    objective = dataclasses.replace(objective, forcing=forcing)
    state, batch = inputs(objective, VIDEOS, CHUNKS)
    parts = memory_parts(objective, state, batch)
    assert parts["weights"] == parts["average"] == parts["gradients"]
    assert parts["weights"] == pytest.approx(4 * 1.42e9, rel=0.01)  # float32
    assert parts["optimizer"] == pytest.approx(2 * parts["weights"], rel=1e-6)
    assert parts["entries"] == 2 * 30 * (encoded * 37440 + 1560) * 1536 * 2 * 2
    assert parts["inputs"] == 30 * (denoised + encoded) * 37440 * 1536 * 4


def test_a_lora_has_no_moments_of_the_dit():
    """Of rank 16: r (in + out) for each of eight projections of attention and two of the feed-forward network."""
    objective, d, f = make_objective(WAN, ONE_DEVICE, 1), 1536, 8960
    parts = memory_parts(objective, *inputs(objective, 1, CHUNKS, LoraConfig(rank=16)))
    factors = 4 * 30 * 16 * (8 * 2 * d + 2 * (d + f))
    whole = memory_parts(objective, *inputs(objective, 1, CHUNKS))["weights"]
    assert parts["average"] == factors
    assert parts["optimizer"] == pytest.approx(2 * factors, rel=1e-6)
    assert parts["merged"] == whole and parts["weights"] == whole + factors


def test_few_targets_see_few_chunks():
    """Of 15 chunks four are encoded for one target, and a target sees the rows that slots can hold."""
    assert counts(make_objective(WAN, ONE_DEVICE, 1), 15) == (1, 4)
    assert counts(make_objective(WAN, ONE_DEVICE), 15) == (30, 15)
    assert rows_seen(WAN) == 37440 + 1560 + 4 * 18944
    dense = apply_overrides(WAN, ["retrieval.dense_recent=true"])
    assert rows_seen(dense) == 3 * 37440 + 1560 + 2 * 18944


def test_meshes_and_remedies():
    assert choose_mesh(WAN, 64) == dict(data=8, fsdp=8)  # 1560 tokens
    assert choose_mesh(WAN, 4) == dict(data=1, fsdp=4)
    state = dict.fromkeys(("weights", "average", "optimizer", "gradients"), 1)
    parts = state | dict(batch=0, entries=6, inputs=1, temporaries=1)
    assert remedies(WAN, dict(fsdp=2), parts, 8.5, 2) == [
        "--targets 1",
        "--mesh fsdp=2,context=2 (4 devices)",
        "--mesh fsdp=4 (4 devices)",
        "--mesh fsdp=2,tensor=2 (4 devices)",
        "--minutes 0.0667 (1 chunks a video)",
    ]
    partly = dataclasses.replace(WAN, dit=dataclasses.replace(WAN.dit, remat="dots"))
    assert remedies(partly, dict(fsdp=8), state | dict(temporaries=2), 5.5, 1) == [
        "--set dit.remat=full",
        "--targets 1",
        "--mesh fsdp=8,tensor=2 (16 devices)",
    ]
