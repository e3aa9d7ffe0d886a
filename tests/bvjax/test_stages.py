"""Which samplers fit which stage of training."""

from __future__ import annotations

import pytest

from bvjax.errors import UserError
from bvjax.stages import check_sampler


@pytest.mark.parametrize("stage", ["pretrained", "stage1", "stage2", None])
@pytest.mark.parametrize("kind", ["unipc", "euler"])
def test_many_steps(stage, kind):
    check_sampler(stage, kind)


def test_few_steps():
    check_sampler("few-step", "few_step")
    check_sampler(None, "few_step")


def test_samplers_that_do_not_fit():
    with pytest.raises(
        UserError, match="of stage few-step: sampler.kind must be few_step, not unipc"
    ):
        check_sampler("few-step", "unipc")
    with pytest.raises(UserError, match="of stage stage1: sampler.kind few_step is for few-step"):
        check_sampler("stage1", "few_step")
    with pytest.raises(UserError, match="'stage9'; it can be pretrained, stage1, stage2, few-step"):
        check_sampler("stage9", "unipc")
