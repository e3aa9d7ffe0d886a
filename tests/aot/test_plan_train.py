"""The step of training, compiled for machines that are not here."""

import pytest

from bvjax.overrides import apply_overrides
from bvjax.plan.limits import hosts_of_group
from bvjax.plan.topology import topology_devices
from bvjax.plan.training_report import lines, make_plan
from bvjax.presets import get_preset
from bvjax.sharding import make_layout

CUT = dict(data=2, fsdp=2)


def made(preset, topology, sizes, minutes, batch=None, targets=0, overrides=()):
    model = apply_overrides(get_preset(preset), overrides)
    chip, devices = topology_devices(topology)
    silent = lambda text: None
    return make_plan(model, topology, chip, devices, sizes, minutes, batch, silent, targets)


def test_a_step_of_mini_fits():
    plan = made("mini", "v5p:2x2x1", CUT, 0.3)
    text = "\n".join(lines(plan))
    assert plan.fits and plan.videos == 2 and plan.chunks == 5, text
    assert plan.parts["average"] == plan.parts["weights"]
    assert plan.parts["optimizer"] == pytest.approx(2 * plan.parts["weights"], rel=1e-3)
    (step,) = plan.programs
    layers = [c for c in step.collectives if c.kind == "all-gather" and c.axes == ("fsdp",)]
    assert max(c.times for c in layers) >= get_preset("mini").dit.num_layers, text
    # Weights, keys and values are gathered; gradients are summed; videos stay where they are.
    assert {c.axes for c in step.collectives if c.kind == "all-gather"} == {("fsdp",)}, text
    # The permutation is of the captions of drawn targets: XLA reads them by index with devices in another order.
    # Nobody wants it; it is one video's captions, once in each direction.
    moves = {"all-gather", "all-reduce", "reduce-scatter", "collective-permute"}
    assert {c.kind for c in step.collectives} <= moves, text


@pytest.mark.parametrize("topology", ["h100:2x8", "v5p:2x2x4"])
def test_few_targets_in_bfloat16_on_odd_shards(topology):
    """A single latent's 16 tokens over 16 devices: one query each, which cuDNN's gradient refuses.

    Slots hold half of a chunk, of 15 chunks four are encoded for the one target, and two videos follow each other.
    """
    overrides = ["dit.dtype=bfloat16", "memory.capacity=64"]
    plan = made("mini", topology, dict(fsdp=16), 1.0, batch=2, targets=1, overrides=overrides)
    text = "\n".join(lines(plan))
    assert plan.fits and plan.at_once == 1 and (plan.targets, plan.encoded) == (1, 4), text
    assert "of the peak at most" in text


def test_axes_that_leave_a_host_are_known():
    _, devices = topology_devices("h100:4x8")
    layout = make_layout(dict(data=4, fsdp=8), devices)
    hosts = [hosts_of_group(layout, axes) for axes in (("fsdp",), ("data",), ("data", "fsdp"))]
    assert hosts == [1, 4, 4]
