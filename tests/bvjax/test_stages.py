"""Which samplers fit which stage of training."""

from __future__ import annotations

import pytest

from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.overrides import apply_overrides
from bvjax.presets import PRESETS, get_preset
from bvjax.stages import STAGES, check_sampler, memory_warning


@pytest.mark.parametrize("stage", ["pretrained", "stage1", "stage2", None])
@pytest.mark.parametrize("kind", ["unipc", "euler"])
def test_many_steps(stage, kind):
    check_sampler(stage, kind)


def test_few_steps():
    check_sampler("few-step", "few_step")
    check_sampler(None, "few_step")
    for stage in ("stage1", "stage2", None):
        check_sampler(stage, "few_step", "few_step")


def test_samplers_that_do_not_fit():
    with pytest.raises(
        UserError, match="of stage few-step: sampler.kind must be few_step, not unipc"
    ):
        check_sampler("few-step", "unipc")
    with pytest.raises(UserError, match="of stage stage1: sampler.kind few_step is for few-step"):
        check_sampler("stage1", "few_step")
    with pytest.raises(
        UserError, match="trained with sampler few_step: sampler.kind must be few_s"
    ):
        check_sampler("stage2", "unipc", "few_step")
    with pytest.raises(UserError, match="of stage stage2: sampler.kind few_step is for few-step"):
        check_sampler("stage2", "few_step")
    with pytest.raises(UserError, match="'stage9'; it can be pretrained, stage1, stage2, few-step"):
        check_sampler("stage9", "unipc")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", [*STAGES, None])
def test_a_memory_that_weights_were_never_trained_for(stage, preset):
    """SkyReels' preset has none."""
    warned = memory_warning(stage, get_preset(preset)) is not None
    assert warned == (stage == "pretrained" and preset != "skyreels-1.3b")


def test_the_warning_says_what_to_expect_and_what_it_advises_is_legal():
    wan = get_preset("wan-1.3b")
    text = memory_warning("pretrained", wan)
    for part in ("stage pretrained", "never trained with a memory", "Expect seams", "stage1"):
        assert part in text
    advised = [word for word in text.replace("(", " ").replace(")", " ").split() if "=" in word]
    without = apply_overrides(wan, advised)
    check_model(without, 3)
    assert len(advised) == 2 and memory_warning("pretrained", without) is None
    for one in advised:
        assert memory_warning("pretrained", apply_overrides(wan, [one])) is not None
