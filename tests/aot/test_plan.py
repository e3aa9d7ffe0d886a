"""The programs that generate, compiled for machines that are not here: they fit, and send what they may."""

import dataclasses

import pytest

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
# By program.  Pictures are cut along all axes: neighbours exchange the rows at the cuts.
PICTURES = {"all-gather", "collective-permute"}
ALLOWED = {
    "all-gather": ROWS | {("data",)},  # weights; keys and values, rows of slots; the velocity
    "all-reduce": {("tensor",), ("data",)},  # behind projections, of norms; the velocity
    "collective-permute": {("data",)},  # the velocity
}


def made(preset, topology, sizes, **options):
    chip, devices = topology_devices(topology)
    model = get_preset(preset)
    return make_plan(model, topology, chip, devices, sizes, 1.0, lambda text: None, **options)


@pytest.mark.parametrize(
    "preset, topology, sizes", CASES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_generation_fits_and_sends_nothing_else(preset, topology, sizes):
    mini = preset == "mini"
    plan = made(preset, topology, sizes, decode=mini)
    text = "\n".join(lines(plan))
    assert plan.fits, text
    names = [program.name for program in plan.programs]
    assert names == ["denoise", "commit", "decode"][: len(names)] and len(names) == 2 + mini
    for program in plan.programs:
        for each in program.collectives:
            axes = tuple(axis for axis in each.axes if plan.mesh[axis] > 1)
            # Importances are summed over rows and heads; a few numbers may go anywhere.
            fine = each.bytes <= 2**20 or axes in ALLOWED.get(each.kind, ())
            assert fine or program.name == "decode" and each.kind in PICTURES, (program.name, each)
        if not mini:
            assert program.largest.bytes <= plan.parts["context"], text
            # The context itself is one of them; what layers and gathers need is less than two more.
            assert program.temporaries <= 3 * plan.parts["context"], text
    if plan.padding is not None:
        assert plan.padding < 0.05


def test_what_does_not_fit_says_so_and_what_would():
    plan = made("wan-1.3b", "v5e:2x2", dict(context=4))
    text = "\n".join(lines(plan))
    assert not plan.fits and "does not fit" in text and "15.75G" in text
    assert "--set memory.dtype=int8" in plan.remedies
    assert dataclasses.replace(plan, fits=True).roofline > 0
