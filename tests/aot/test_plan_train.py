"""The step of training, compiled for machines that are not here."""

import pytest

from bvjax.overrides import apply_overrides
from bvjax.plan.topology import topology_devices
from bvjax.plan.training_report import lines, make_plan
from bvjax.presets import get_preset

CUT = dict(data=2, fsdp=2)
ROWS = {("fsdp",), ("context",), ("fsdp", "context")}


def made(preset, topology, sizes, minutes, *overrides, videos=None):
    model = apply_overrides(get_preset(preset), overrides)
    chip, devices = topology_devices(topology)
    return make_plan(model, topology, chip, devices, sizes, minutes, videos, lambda text: None)


@pytest.mark.parametrize("topology", ["v5p:2x2x1", "h100:1x4"])
def test_a_step_of_mini_fits(topology):
    plan = made("mini", topology, CUT, 0.3)
    text = "\n".join(lines(plan))
    assert plan.fits and plan.videos == 2 and plan.chunks == 5, text
    assert plan.parts["average"] == plan.parts["weights"]
    assert plan.parts["optimizer"] == pytest.approx(2 * plan.parts["weights"], rel=1e-3)
    (step,) = plan.programs
    layers = [c for c in step.collectives if c.kind == "all-gather" and c.axes == ("fsdp",)]
    assert max(c.times for c in layers) >= get_preset("mini").dit.num_layers, text


def test_what_does_not_fit_says_what_would():
    plan = made("mini", "v5e:2x2", CUT, 1, "dit.dim=1536", "dit.ffn_dim=6144", videos=64)
    assert not plan.fits and plan.remedies, "\n".join(lines(plan))
