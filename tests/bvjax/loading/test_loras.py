"""Weights with LoRAs in them: the sums that conversion writes, for any strengths, without compiling again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax import weights
from bvjax.conversion import lora as lora_files
from bvjax.errors import UserError
from bvjax.loading import loras
from bvjax.loading.loras import MergedParams, merge, open_loras
from tests.support import lora_files as files
from tests.support.merged_lora import merge as merge_on_disk


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    """Two opened files, LoRA and its relatives, of strengths 0.5 and 0.25."""
    folder = tmp_path_factory.mktemp("loras")
    first = files.save(folder / "first.safetensors", files.lora())
    second = files.save(folder / "second.safetensors", files.relatives())
    return open_loras([f"{first}:0.5", f"{second}:0.25"], tiny.model)


def test_the_sums_are_those_of_conversion(tiny, two):
    """Which is tested against the equations; DoRA takes the weight with the LoRA before it."""
    assert two.strengths == (0.5, 0.25)
    before = weights.flatten(tiny.params["dit"])
    ours = weights.flatten(merge(tiny.params["dit"], two, two.strengths))
    theirs = weights.flatten(merge_on_disk(tiny.params["dit"], two.files))
    changed = {leaf for leaf in before if ours[leaf] is not before[leaf]}
    assert changed == {leaf for leaf in before if np.any(theirs[leaf] != before[leaf])}
    assert len(changed) == 8 and ours.keys() == before.keys()
    for leaf in changed:
        np.testing.assert_allclose(ours[leaf], theirs[leaf], atol=2e-6)
        assert np.abs(theirs[leaf] - before[leaf]).max() > 0.01, leaf


def test_other_strengths_compile_nothing(tiny, two):
    params = MergedParams(lambda: tiny.params["dit"], two)
    one = params.at((0.5, 0.25))
    assert params.at((0.5, 0.25)) is one  # kept
    compiled = loras._changed._cache_size()
    other = params.at((-0.5, 0.0))
    assert loras._changed._cache_size() == compiled
    kernel = lambda tree: np.asarray(tree["blocks"]["self_attn"]["q"]["kernel"][1], np.float64)
    base = tiny.params["dit"]
    np.testing.assert_allclose(kernel(one) - kernel(base), kernel(base) - kernel(other), atol=1e-6)
    assert params.at((0.0, 0.0)) is base  # off to the bit
    # programs of a chunk see the same arguments
    assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, base)
    assert jax.tree.map(lambda x: x.dtype, one) == jax.tree.map(lambda x: x.dtype, base)


def test_half_precision_is_rounded_once(tiny, tmp_path):
    head = {name: x for name, x in files.lora().items() if "head.head" in name}
    lora = open_loras([f"{files.save(tmp_path / 'head.safetensors', head)}:0.5"], tiny.model)
    half = {"head": jax.tree.map(lambda x: x.astype(jnp.float16), tiny.params["dit"]["head"])}
    ours = weights.flatten(merge(half, lora, lora.strengths))
    theirs = weights.flatten(merge_on_disk(jax.tree.map(np.asarray, half), lora.files))
    for leaf, value in ours.items():
        assert value.dtype == jnp.float16
        # but where sums in float32 fall on either side of a rounding
        assert np.mean(np.asarray(value) != np.asarray(theirs[leaf])) < 2e-3, leaf
    with pytest.raises(UserError, match="would not be finite in float16; take a lower strength"):
        merge(half, lora, (1e7,))


def test_what_is_refused(tiny, two, tmp_path):
    first = two.files[0].path
    with pytest.raises(UserError, match="there is no LoRA file none"):
        open_loras("none.safetensors", tiny.model)
    with pytest.raises(UserError, match="is given twice"):
        open_loras([first, f"{first}:0.5"], tiny.model)
    broken = files.lora()
    broken["diffusion_model.head.head.lora_up.weight"][3, 1] = np.nan
    with pytest.raises(UserError, match="not finite in its change of head/head/kernel"):
        open_loras(files.save(tmp_path / "nan.safetensors", broken), tiny.model)
    with pytest.raises(UserError, match="here has 1 strengths; there are 2 LoRAs"):
        two.check([1.0], "here")
    with pytest.raises(UserError, match="here is nan for"):
        two.check([1.0, float("nan")], "here")
    with pytest.raises(UserError, match="is a DoRA: it cannot be taken out"):
        two.check([1.0, -1.0], "here")
    assert lora_files.parse(f"{first}:0.5") == (first, 0.5)
