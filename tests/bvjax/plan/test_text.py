"""The report of a step says what that of a chunk says where they know the same."""

import pytest

from bvjax.chips import find_chip
from bvjax.plan import report, training_report
from bvjax.plan.hlo import Collective, ProgramArray
from bvjax.plan.program import Program

GB = 10**9
GATHER = Collective("all-gather", ("context",), "denoise/all_gather", 10**6, 6)
FITTING = Program("denoise", GB, 5, 3 * GB, ProgramArray(10**8, "bf16[8]", "keys"), (GATHER,))
BOTH = dict(
    topology="v5e:2x4",
    chip=find_chip("v5e"),
    mesh=dict(data=2, context=4),
    chunks=8,
    parts=dict(weights=3 * GB, bank=7 * GB),
    flops=dict(attention=10**12),
    traffic=dict(weights=GB),
    seconds=dict(products=0.3, memory=0.01, links=2.0),
)
ENDS = {
    "fits": dict(fits=True, needed=3 * GB, programs=(FITTING,), problem="", remedies=()),
    "refused": dict(
        fits=False,
        needed=None,
        programs=(),
        problem="denoise: too large\nSize: 3",
        remedies=("--a",),
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_both_reports_tell_the_same_figures(end):
    chunk = report.Plan(
        **BOTH, **ENDS[end], minutes=0.5, padding=0.1, dense_history=10**12, recache={}
    )
    step = training_report.TrainingPlan(
        **BOTH, **ENDS[end], videos=2, at_once=1, seconds_of_video=4.0, targets=3, encoded=5,
        lora=None, remat="full",
    )  # fmt: skip
    told = [
        " ".join(" ".join(line.split()) for line in made)
        for made in (report.lines(chunk), training_report.lines(step))
    ]
    for text, unit in zip(told, ("chunk", "step"), strict=True):
        assert text.startswith("v5e:2x4: 8 x v5e, mesh data=2, context=4 ")
        assert "memory of one device, of 17.18 GB: weights 3.00 GB bank 7.00 GB" in text
        assert f"time of one {unit} cannot go below: products 0.30 s memory 10.000 ms" in text
        assert f"bound by links: 2.00 s a {unit}, " in text
        assert "peaks of v5e: 197 TFLOP/s bfloat16, 819 GB/s memory, 90 GB/s a mesh axis" in text
        if end == "fits":
            assert "temporaries 3.00 GB (the largest 100.00 MB, bf16[8]), outputs 5 B" in text
            assert "3.00 GB at once: fits (17% of the memory)" in text
            assert "all-gather over context: 6 of 6.00 MB together" in text
        else:
            assert "does not fit denoise: too large Size: 3 would fit: --a" in text
    assert "16.00 s for 0.5 minute(s) (8 chunks)" in told[0]
    assert "a step: 2 video(s) of 4 s (8 chunks), 1 at once; of each 5 chunk(s) enc" in told[1]
    # 1 TFLOP in the 2 s of the links, on 8 chips of 197 TFLOP/s
    assert "of the peak at most 0% then (MFU" in told[1]
    assert step.utilisation == pytest.approx(1 / (2 * 8 * 197))
    assert ("links unknown: nothing was compiled" in told[1]) == (end == "refused")
    assert "4 s of video a second" in told[1]
