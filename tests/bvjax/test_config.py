"""Numbers that no network can be made of are refused where a configuration is made."""

import dataclasses
import math

import jax
import pytest

from bvjax import weights
from bvjax.config import MAX_COUNT, DiTConfig, ModelConfig
from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.overrides import apply_overrides, from_dict, to_dict
from bvjax.presets import PRESETS, get_preset

MINI = get_preset("mini")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("dit.num_heads=0", "dit.num_heads is 0; it must be 1 to 65536"),
        ("dit.num_heads=5", "dit.num_heads is 5; it must cut dit.dim = 192 into heads of an even"),
        ("dit.num_heads=64", "dit.num_heads is 64; it must cut"),
        ("dit.dim=0", "dit.dim is 0; it must be 1 to 65536"),
        ("dit.num_layers=1000000000", "dit.num_layers is 1000000000; it must be 1 to 1024"),
        ("dit.patch=(1,0,2)", r"dit.patch is \(1, 0, 2\); it must be 1 to 64"),
        ("dit.freq_dim=65", "dit.freq_dim is 65; it must be even"),
        ("dit.rope_theta=0", "dit.rope_theta is 0.0; it must be a finite number above 0"),
        ("dit.eps=1e999", "dit.eps is inf; it must be a finite number above 0"),
        ("dit.latent_std=[1.0]", "dit.latent_std is .* none or dit.in_channels = 32 values"),
        ("dit.dtype=float64", "dit.dtype is 'float64'; it can be float32, bfloat16, float16"),
        ("vae.dtype=int8", "vae.dtype is 'int8'; it can be"),
        ("text.pool=cls", "text.pool is 'cls'; it can be mean, last, max"),
        ("text.dtype=float16", "text.dtype is 'float16'; it can be float32, bfloat16"),
        ("vae.patch=0", "vae.patch is 0; it must be 1 to 64"),
        ("vae.dim_mult=[1,0,1]", r"vae.dim_mult is \(1, 0, 1\); it must be 1 to 64"),
        ("vae.num_res_blocks=33", "vae.num_res_blocks is 33; it must be 0 to 32"),
        ("text.num_buckets=2", "text.num_buckets is 2; it must be 4 to"),
        ("text.max_distance=8", "text.max_distance is 8; it must be above a quarter of"),
        ("text.max_length=100000", "text.max_length is 100000; it must be 1 to 4096"),
        (
            "build.n_random=1099511627776",
            f"build.n_random is 1099511627776; it must not be above {MAX_COUNT}",
        ),
        ("guidance.scale=1e999", "guidance.scale is inf; it must be finite"),
    ],
)
def test_impossible_numbers(override, told):
    with pytest.raises(UserError, match=told):
        apply_overrides(MINI, [override])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["dit.in_channels=16", "dit.preconditioning=none"],
            "dit.in_channels is 16; it must be vae.z_dim = 32",
        ),
        (["dit.out_channels=64"], "dit.out_channels is 64; it must be vae.z_dim = 32"),
        (["dit.preconditioning=noise"], "dit.preconditioning is 'noise'; it can be none, linear"),
    ],
)
def test_parts_that_do_not_fit_each_other(overrides, told):
    with pytest.raises(UserError, match=told):
        check_model(apply_overrides(MINI, overrides))


def test_the_largest_sizes_are_still_numbers_of_64_bits():
    """All bounds at once: shapes are found, and nothing is made."""
    dit = DiTConfig(dim=2**16, num_heads=2**10, num_layers=1024, ffn_dim=MAX_COUNT, freq_dim=2**16)
    model = dataclasses.replace(PRESETS["wan-1.3b"], dit=dit)
    model = apply_overrides(
        model, ["vae.dim=65536", "vae.dim_mult=[64,64,64,64]", "vae.patch=64", "text.dim=65536", "text.ffn_dim=65536",
                "text.num_heads=65536", "text.head_dim=65536", "text.num_layers=1024"],
    )  # fmt: skip
    for part in weights.PARTS:
        leaves = jax.tree.leaves(weights.shapes(model, part))
        assert 2**40 < sum(math.prod(leaf.shape) * 4 for leaf in leaves) < 2**63


def without_one_key(values):
    """Every (key, copy of a nested dictionary that lacks it), sections included."""
    for key, value in values.items():
        yield key, {k: v for k, v in values.items() if k != key}
        if isinstance(value, dict):
            for inner, rest in without_one_key(value):
                yield f"{key}.{inner}", values | {key: rest}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_file_that_lacks_a_key_has_the_default_or_is_refused(preset):
    """Names in a sentence the part that does not fit the default."""
    whole, refused = to_dict(get_preset(preset)), []
    for key, values in without_one_key(whole):
        try:
            check_model(from_dict(ModelConfig, values))
        except UserError:
            refused.append(key)
    assert "name" in refused and "dit.eps" not in refused
    with pytest.raises(UserError, match="the configuration is incomplete: it has no name$"):
        from_dict(ModelConfig, {key: value for key, value in whole.items() if key != "name"})
