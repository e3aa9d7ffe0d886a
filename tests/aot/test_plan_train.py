"""The step of training, compiled for machines that are not here."""

import pytest

from bvjax.plan.topology import topology_devices
from bvjax.plan.training_report import lines, make_plan
from bvjax.presets import get_preset

CUT = dict(data=2, fsdp=2)


def made(preset, topology, sizes, minutes):
    model = get_preset(preset)
    chip, devices = topology_devices(topology)
    return make_plan(model, topology, chip, devices, sizes, minutes, None, lambda text: None)


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
    assert {c.kind for c in step.collectives} <= {"all-gather", "all-reduce", "reduce-scatter"}
