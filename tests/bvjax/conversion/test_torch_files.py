"""Which dictionary of a training checkpoint is taken; the files themselves are in tests/torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from bvjax.conversion.sources import is_known
from bvjax.conversion.torch_files import choose_branch
from bvjax.errors import UserError

KEY = "model._fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.self_attn.q.weight"
STATE = {KEY: b"tensor"}
OTHER = {KEY: b"another"}


def chosen(state, branch=None):
    return choose_branch(state, branch, Path("x.pt"), is_known, lambda x: isinstance(x, bytes))


@pytest.mark.parametrize("state, used", [
    (STATE, ""),
    (STATE | {"step": 7, "config": {"lr": 1e-5}}, ""),
    ({"generator": STATE, "step": 7}, "generator"),
    ({"generator": STATE, "critic": OTHER, "step": b"7"}, "generator"),
    ({"critic": OTHER, "generator": OTHER, "generator_ema": STATE}, "generator_ema"),
    ({"state_dict": {"generator": STATE, "critic": OTHER}}, "state_dict.generator"),
    ({"model": STATE, "optimizer": {"state": {0: {"exp_avg": b"1"}, KEY: {"step": b"2"}}}}, "model"),
    ({"weights": STATE, "text": {"a": b"1"}}, "weights"),
    ({"step": b"7", "net": STATE, "list": [1, {2: 3}]}, "net"),
])  # fmt: skip
def test_what_is_taken(state, used):
    assert chosen(state) == ({KEY: b"tensor"}, used)


def test_a_choice():
    state = {"generator": STATE, "generator_ema": OTHER, "critic": OTHER, "step": 3}
    assert chosen(state, "generator") == (STATE, "generator")
    assert chosen(state, "critic") == (OTHER, "critic")
    assert chosen({"all": state}, "all.critic") == (OTHER, "all.critic")
    for tried, match in (
        (state, "x.pt has no 'teacher': it has generator, generator_ema, critic"),
        (
            {"a": {"teacher": STATE}, "b": {"teacher": STATE}},
            "has several 'teacher': a.teacher, b.t",
        ),
        (STATE, "x.pt has no 'teacher': its tensors lie at the top; leave out `branch`"),
        ({"step": 7}, "x.pt has no weights"),
    ):
        with pytest.raises(UserError, match=match):
            chosen(tried, "teacher")


@pytest.mark.parametrize(
    "state, match",
    [
        (
            {"student": STATE, "teacher": OTHER},
            "several weights; name one with `branch`: student, teacher",
        ),
        ({"critic": {"w": b"1"}, "step": 3}, "no weights that bvjax knows; its tensors are w"),
        (7, "no weights that bvjax knows; its tensors are none"),
        ([STATE], "its tensors are none"),
        ({}, "its tensors are none"),
    ],
)
def test_what_is_refused(state, match):
    with pytest.raises(UserError, match=match):
        chosen(state)
