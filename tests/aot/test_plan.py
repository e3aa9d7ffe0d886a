"""The programs that generate, compiled for machines that are not here: they fit, and send what they may."""

import dataclasses

import pytest

from bvjax.overrides import apply_overrides
from bvjax.plan.report import lines, make_plan
from bvjax.plan.topology import topology_devices
from bvjax.presets import get_preset

MINI = dict(data=2, context=2)
CASES = [
    ("mini", "v5e:2x2", MINI),
    ("mini", "v5p:2x2x1", MINI),
    ("mini", "v6e:2x2", MINI),
    ("wan-1.3b", "v5e:4x4", dict(data=2, context=8)),
    ("wan-1.3b", "v5p:2x2x1", dict(context=4)),
    ("wan-1.3b", "v6e:2x4", dict(data=2, context=4)),
    ("wan-1.3b", "h100:1x8", dict(data=2, context=4)),
    ("wan-14b", "v5p:4x4x4", dict(data=2, fsdp=2, context=4, tensor=4)),
]
ROWS = {("fsdp",), ("context",), ("fsdp", "context")}
ALLOWED = {
    "all-gather": ROWS | {("data",)},  # weights; keys and values, rows of slots; the velocity
    "all-reduce": {("tensor",), ("data",)},  # behind projections, of norms; the velocity
    "collective-permute": {("data",)},  # the velocity
}


def made(preset, topology, sizes, *overrides):
    model = apply_overrides(get_preset(preset), overrides)
    chip, devices = topology_devices(topology)
    return make_plan(model, topology, chip, devices, sizes, 1.0, lambda text: None)


@pytest.mark.parametrize(
    "preset, topology, sizes", CASES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_generation_fits_and_sends_nothing_else(preset, topology, sizes):
    plan = made(preset, topology, sizes)
    text = "\n".join(lines(plan))
    assert plan.fits, text
    assert {program.name for program in plan.programs} == {"denoise", "commit"}
    for program in plan.programs:
        for each in program.collectives:
            axes = tuple(axis for axis in each.axes if plan.mesh[axis] > 1)
            # Importances are summed over rows and heads; a few numbers may go anywhere.
            small = each.bytes <= 2**20
            assert small or axes in ALLOWED.get(each.kind, ()), (program.name, each)
        # Beside the context itself no more than another one.
        if preset != "mini":
            assert program.temporaries <= 2 * plan.parts["context"], text


def test_what_does_not_fit_says_so_and_what_would():
    plan = made("wan-1.3b", "v5e:2x2", dict(context=4))
    text = "\n".join(lines(plan))
    assert not plan.fits and "does not fit" in text and "15.75G" in text
    assert "--set memory.dtype=int8" in plan.remedies
    assert dataclasses.replace(plan, fits=True).roofline > 0
