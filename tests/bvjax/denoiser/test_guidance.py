"""The rule of guidance by value: which scale applies, and what the null branch forgets."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.config import GuidanceConfig, ModelConfig, RetrievalConfig
from bvjax.denoiser import guidance

MODEL = ModelConfig(
    name="guided",
    retrieval=RetrievalConfig(num_recent=2, num_retrieved=2),
    guidance=GuidanceConfig(scale=2.0, memory=3.0),
)
# [semantic, semantic, recent, recent] of three chunks, behind the anchor or not.
VALID = np.array([[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]], bool)


@pytest.mark.parametrize("anchor", [False, True])
def test_where_something_was_retrieved_the_scale_is_that_of_the_memory(anchor):
    valid = jnp.asarray(np.pad(VALID, ((0, 0), (int(anchor), 0)), constant_values=True))
    np.testing.assert_array_equal(guidance.guidance_scale(MODEL, valid), [3.0, 2.0, 3.0])
    left = np.asarray(guidance.null_sees(MODEL, valid))
    np.testing.assert_array_equal(left[:, :anchor], True)  # the anchor stays
    np.testing.assert_array_equal(left[:, anchor : anchor + 2], False)
    np.testing.assert_array_equal(left[:, anchor + 2 :], VALID[:, 2:])


def test_without_memory_guidance_the_null_branch_sees_all():
    model = dataclasses.replace(MODEL, guidance=GuidanceConfig(scale=2.0))
    assert guidance.null_sees(model, jnp.asarray(VALID)) is None
    assert guidance.guidance_scale(model, jnp.asarray(VALID)) == 2.0


def test_guides_row_by_row_and_skips_the_null_branch_at_one():
    asked = []

    def branch(value):
        return lambda x, sigma: asked.append(value) or jnp.full_like(x, value)

    x = jnp.zeros((2, 3))
    by_row = guidance.guide(branch(5.0), branch(1.0), jnp.array([3.0, 2.0]))(x, 0.5)
    np.testing.assert_array_equal(by_row, [[13.0] * 3, [9.0] * 3])
    assert guidance.guide(branch(5.0), branch(1.0), 2.0)(x, 0.5)[0, 0] == 9.0
    asked.clear()
    np.testing.assert_array_equal(guidance.guide(branch(5.0), branch(1.0), 1.0)(x, 0.5), 5.0)
    assert asked == [5.0]
