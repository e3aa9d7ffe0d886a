"""What a plan says of figures that a compiler gave."""

import dataclasses

import jax
import pytest

from bvjax.chips import find_chip
from bvjax.plan import program
from bvjax.plan.hlo import Collective, ProgramArray
from bvjax.plan.report import lines, make_plan, remedies
from bvjax.plan.text import in_bytes, in_flop, in_seconds
from bvjax.presets import get_preset

GB = 10**9
CHIP = find_chip("v5e")  # of 16 GiB, of which 0.25 are not free


def planned(monkeypatch, compiler):
    monkeypatch.setattr(program, "compile_generation", compiler)
    mini = get_preset("mini")
    return make_plan(mini, "v5e:1x1", CHIP, jax.devices()[:1], {}, 0.5, print)


@pytest.mark.parametrize("temporaries, fits", [(16 * GB, True), (17 * GB, False)])
def test_what_stays_and_the_largest_program_must_fit(monkeypatch, temporaries, fits):
    gather = Collective("all-gather", ("context",), "denoise/all_gather", 10**6, 6)
    made = [
        program.Program(
            "denoise", GB, 5, temporaries, ProgramArray(10**8, "bf16[8]", "keys"), (gather,)
        ),
        program.Program("decode", GB, 7, GB, ProgramArray(10**7, "u8[8]", "frames"), ()),
    ]
    plan = planned(monkeypatch, lambda *_: made)
    assert plan.fits == fits and plan.chunks == 8
    stays = sum(plan.parts[name] for name in ("weights", "bank", "vae"))
    assert plan.needed == stays + temporaries + 5 == sum(plan.parts.values())
    text = "\n".join(lines(plan))
    assert ("does not fit" in text) != fits
    assert "denoise: all-gather over context: 6 of 6.00 MB together" in text
    assert plan.seconds["links"] == 0  # a group of one receives nothing
    assert plan.seconds["memory"] == sum(plan.traffic.values()) / CHIP.bandwidth
    assert plan.roofline == max(plan.seconds.values())


def test_what_a_new_caption_costs_is_said(monkeypatch):
    made = program.Program("denoise", GB, 5, GB, ProgramArray(10**8, "bf16[8]", "keys"), ())
    plan = planned(monkeypatch, lambda *_: [made])
    said = "entries are encoded again"
    assert said not in "\n".join(lines(plan))
    again = dataclasses.replace(
        plan, recache={"entries": 2, "flops": sum(plan.flops.values()) // 4}
    )
    assert "up to 2 entries are encoded again" in "\n".join(lines(again))
    assert "25.0% of a chunk" in "\n".join(lines(again))


def test_the_compilers_refusal_is_shown(monkeypatch):
    message = "Ran out of memory in memory space hbm. Used 28.5G of 15.75G hbm."

    def refuse(*_):
        raise program.TooLarge("denoise", program.needed_bytes(message), message)

    plan = planned(monkeypatch, refuse)
    assert not plan.fits and plan.needed == 28.5 * 2**30
    assert message in "\n".join(lines(plan))


PARTS = dict(weights=3, bank=7, vae=0.5, context=2, gathered=1, activations=1, temporaries=1)
WAN = get_preset("wan-1.3b")
TWICE = [f"--mesh {axis}=2 (2 devices)" for axis in ("context", "fsdp", "tensor")]


@pytest.mark.parametrize(
    "room, sizes, found",
    [
        (13, {}, ["--set memory.dtype=int8", "--set memory.offload=host", *TWICE]),
        (10, {}, ["--set memory.offload=host", *TWICE]),
        # Twice the devices are too few here, and 8 tensor devices do not cut 12 heads.
        (
            8.3,
            {"tensor": 4},
            [f"--mesh {axis}=4,tensor=4 (16 devices)" for axis in ("context", "fsdp")],
        ),
        (1, {"context": 4}, []),
    ],
)
def test_remedies_are_the_mildest_that_do(room, sizes, found):
    named = remedies(WAN, sizes, {part: size * GB for part, size in PARTS.items()}, room * GB)
    assert [n for n in named if "capacity" not in n] == found


def test_figures_are_told_in_units_that_show_them():
    assert [in_bytes(x) for x in (1.5e9, 2e3, 7)] == ["1.50 GB", "2.00 kB", "7 B"]
    assert [in_flop(x) for x in (1.5e16, 3e8)] == ["15,000.00 TFLOP", "300.00 MFLOP"]
    assert [in_seconds(x) for x in (33.357, 2e-5)] == ["33.36 s", "0.020 ms"]
