"""Lower bounds of times, by hand."""

import jax
import pytest

from bvjax.chips import find_chip
from bvjax.plan import limits
from bvjax.plan.hlo import Collective, ProgramArray
from bvjax.plan.program import Program, needed_bytes
from bvjax.sharding import Layout, make_layout

LAYOUT = make_layout({}, jax.devices()[:1])
MADE = ProgramArray(1, "u8[1]", "x")


def links(monkeypatch, chip, kind, axes, hosts):
    """Seconds of 8 GB of a collective on a mesh of data=4, fsdp=8."""
    sizes = dict(data=4, fsdp=8)
    monkeypatch.setattr(Layout, "size", lambda self, name: sizes[name])
    monkeypatch.setattr(limits, "hosts_of_group", lambda layout, axes: hosts)
    sent = Collective(kind, axes, "x", 8 * 10**9, 1)
    programs = (Program("step", 1, 1, 1, MADE, (sent,)),)
    return limits.least_seconds(LAYOUT, find_chip(chip), programs, 0, 0)["links"]


def test_links_inside_of_a_host_and_between_hosts(monkeypatch):
    inside = links(monkeypatch, "h100", "all-gather", ("fsdp",), 1)
    assert inside == pytest.approx(8 * 7 / 8 / 450)
    between = links(monkeypatch, "h100", "all-gather", ("data",), 4)  # a GPU of each host
    assert between == pytest.approx(8 * 3 / 4 / 50)
    twice = links(monkeypatch, "h100", "all-reduce", ("data",), 4)
    assert twice == pytest.approx(2 * between)
    # A host's 8 GPUs share what it must receive of 32.
    both = links(monkeypatch, "h100", "all-gather", ("data", "fsdp"), 4)
    assert both == pytest.approx(max(8 * 31 / 32 / 450, 8 * 3 / 4 / (50 * 8)))
    tpu = links(monkeypatch, "v5p", "all-gather", ("data",), 4)
    assert tpu == pytest.approx(8 * 3 / 4 / 180)


def test_nothing_is_said_of_links_where_nothing_was_compiled():
    bounds = limits.least_seconds(LAYOUT, find_chip("v5p"), (), 459e12, 0)
    assert bounds == {"products": 1.0, "memory": 0.0}


@pytest.mark.parametrize(
    "message, needed",
    [
        ("Ran out of memory in memory space hbm. Used 28.5G of 15.75G hbm.", 28.5),
        ("E1000: Program hbm requirement 63.80G:\n    global 1.14M", 63.8),
        ("Exceeded hbm capacity by 2.00G.\nTotal hbm usage >= 22.50G:", 22.5),
        ("RESOURCE_EXHAUSTED: no size", None),
    ],
)
def test_sizes_that_compilers_tell(message, needed):
    assert needed_bytes(message) == (None if needed is None else int(needed * 2**30))
