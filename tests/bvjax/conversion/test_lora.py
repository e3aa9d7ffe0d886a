"""LoRA files: merged the same whatever their style, taken out again, and refused when they do not fit."""

from __future__ import annotations

import hashlib
import json
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bvjax import weights
from bvjax.cli import main
from bvjax.conversion import formats, lora
from bvjax.conversion.converter import convert
from bvjax.errors import UserError
from bvjax.nets.dit import WanDiT
from tests.support.merged_lora import merge, unmerge

RANK, ALPHA = 3, 6.0
LAYERS = ("self_attn.q", "self_attn.o", "cross_attn.v", "ffn.0", "ffn.2")
DIFFUSERS = {
    "self_attn.q": "attn1.to_q",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.v": "attn2.to_v",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
MODULES = {f"blocks.{i}.{name}": f"blocks.{i}.{DIFFUSERS[name]}" for i in (0, 1) for name in LAYERS}
MODULES |= {
    "head.head": "proj_out",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
}


@pytest.fixture(scope="module")
def factors(tiny):
    """{module, original names: (down, up)}."""
    rng = np.random.default_rng(5)
    shapes = {s.external_name: s.external_shape for s in formats.specs(tiny.model, "dit", "wan")}
    result = {}
    for module in MODULES:
        out, width = shapes[f"{module}.weight"]
        result[module] = tuple(
            rng.normal(size=size).astype(np.float32) / 4 for size in ((RANK, width), (out, RANK))
        )
    return result


def in_style(style, factors):
    """The same LoRA as it is published, with alpha or with it multiplied in."""
    tensors = {}
    for module, (down, up) in factors.items():
        if style == "original":
            tensors |= {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up}
            tensors[f"{module}.alpha"] = np.array(ALPHA, np.float32)
        if style == "original, A and B":
            scaled = up * np.float32(ALPHA / RANK)
            tensors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": scaled}
        if style == "diffusers":
            name = f"transformer.{MODULES[module]}"
            scaled = up * np.float32(ALPHA / RANK)
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": scaled}
        if style == "diffusion_model":
            name = f"diffusion_model.{module}"
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            tensors[f"{name}.alpha"] = np.array([ALPHA], ml_dtypes.bfloat16)
        if style == "peft":
            name = f"base_model.model.model.{module}"
            tensors |= {f"{name}.lora_A.default.weight": down, f"{name}.lora_B.default.weight": up}
        if style in FLAT:
            name = FLAT[style] + (module if style != "kohya, diffusers" else MODULES[module])
            name = name.replace(".", "_")
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            tensors[f"{name}.alpha"] = np.array(ALPHA, np.float32)
    return tensors


FLAT = {
    "kohya": "lora_unet_",
    "kohya, diffusers": "lora_transformer_",
    "lycoris": "lycoris_",
    "wrapped": "lora_unet__orig_mod_",
}
STYLES = ("original", "original, A and B", "diffusers", "diffusion_model", *FLAT)


@pytest.fixture
def saved(tmp_path, tiny):
    """A function (tensors) -> opened LoRA of strength 0.5."""

    def save(tensors, strength=0.5, **metadata):
        save_file(tensors, tmp_path / "lora.safetensors", metadata or None)
        return lora.open_lora(tmp_path / "lora.safetensors", strength, tiny.model)

    return save


def leaves(params):
    return weights.flatten(params)


@pytest.mark.parametrize("style", STYLES)
def test_all_styles_change_the_same_weights_by_the_same_amount(style, tiny, factors, saved):
    before = leaves(tiny.params["dit"])
    after = leaves(merge(tiny.params["dit"], [saved(in_style(style, factors))]))
    expected = {}
    for module, (down, up) in factors.items():
        change = 0.5 * ALPHA / RANK * (up.astype(np.float64) @ down).T
        if module.startswith("blocks."):
            _, layer, rest = module.split(".", 2)
            leaf = f"blocks/{rest.replace('.', '/')}/kernel"
            expected.setdefault(leaf, np.array(before[leaf], np.float64))[int(layer)] += change
        else:
            leaf = f"{module.replace('.', '/')}/kernel"
            expected[leaf] = before[leaf] + change
    assert after.keys() == before.keys()
    for leaf, value in after.items():
        assert value.dtype == before[leaf].dtype
        if leaf in expected:
            np.testing.assert_allclose(value, expected[leaf], atol=2e-7, rtol=2e-7)
            assert np.abs(expected[leaf] - before[leaf]).max() > 0.05
        else:
            np.testing.assert_array_equal(value, before[leaf])


def test_one_lora_in_all_dialects_gives_the_same_bits(tiny, factors, saved):
    """alpha / rank is a power of two here, so that a file may have it multiplied in."""
    want = merge(tiny.params["dit"], [saved(in_style("original", factors))])
    for style in STYLES:
        result = merge(tiny.params["dit"], [saved(in_style(style, factors))])
        jax.tree.map(np.testing.assert_array_equal, result, want)


def test_settings_of_peft_give_alpha(tiny, factors, saved):
    peft = in_style("peft", factors)
    settings = json.dumps({"transformer.lora_alpha": ALPHA, "transformer.r": RANK})
    ours = merge(tiny.params["dit"], [saved(peft, lora_adapter_metadata=settings)])
    want = merge(tiny.params["dit"], [saved(in_style("original", factors))])
    jax.tree.map(np.testing.assert_array_equal, ours, want)
    alone = leaves(merge(tiny.params["dit"], [saved(peft)]))  # alpha is the rank
    assert not np.array_equal(alone["head/head/kernel"], leaves(ours)["head/head/kernel"])
    stable = json.dumps({"lora_alpha": ALPHA / RANK**0.5, "use_rslora": True})
    stable = leaves(merge(tiny.params["dit"], [saved(peft, lora_adapter_metadata=stable)]))
    for leaf, value in leaves(want).items():
        np.testing.assert_allclose(stable[leaf], value, atol=2e-6)
    for settings, match in (
        (
            '{"transformer.alpha_pattern": {"q": 1}}',
            "has alpha_pattern, which bvjax does not merge",
        ),
        ('{"use_dora": true}', "is a DoRA by its settings, but holds no magnitudes"),
        ('{"lora_alpha": "8"}', "have lora_alpha '8', not a number"),
        ("[" * 5000, "settings of .*lora.safetensors is nested too deeply"),
        ("[1]", "settings of .*lora.safetensors are not a JSON object"),
    ):
        with pytest.raises(UserError, match=match):
            saved(peft, lora_adapter_metadata=settings)


def test_merging_and_unmerging(tiny, factors, saved):
    """Off by at most half an ulp of the merged weight and half an ulp of the weight."""
    params, opened = tiny.params["dit"], [saved(in_style("original", factors))]
    merged = merge(params, opened)
    restored = leaves(unmerge(merged, opened))
    exact = count = 0
    for leaf, value in leaves(params).items():
        largest = np.maximum(np.abs(value), np.abs(leaves(merged)[leaf]))
        off = np.abs(restored[leaf] - value)
        assert np.all(off <= 2.0**-23 * largest), leaf
        exact += (off == 0).sum()
        count += off.size
    assert exact > 0.8 * count
    # on a grid that float32 holds, to the bit
    grid = {
        key: x if x.ndim == 0 else np.round(x * 16).astype(np.float32) / 16
        for key, x in in_style("original", factors).items()
    }
    params = jax.tree.map(lambda x: np.round(np.asarray(x) * 1024) / np.float32(1024), params)
    opened = [saved(grid, strength=-0.25)]
    merged = merge(params, opened)
    assert not np.array_equal(
        leaves(merged)["head/head/kernel"], leaves(params)["head/head/kernel"]
    )
    jax.tree.map(np.testing.assert_array_equal, unmerge(merged, opened), params)


def test_whole_changes_of_weights_and_biases(tiny, saved):
    rng = np.random.default_rng(2)
    scale, bias = (rng.normal(size=32).astype(np.float32) for _ in range(2))
    modulation = rng.normal(size=(1, 6, 32)).astype(np.float32)
    down = rng.normal(size=(RANK, 16, 1, 2, 2)).astype(np.float32)
    up = rng.normal(size=(32, RANK, 1, 1, 1)).astype(np.float32)
    tensors = {
        "diffusion_model.blocks.1.cross_attn.norm_k.diff": scale,
        "diffusion_model.blocks.1.cross_attn.k.diff_b": bias,
        "diffusion_model.blocks.0.diff_m": modulation,
        "diffusion_model.patch_embedding.lora_down.weight": down,
        "diffusion_model.patch_embedding.lora_up.weight": up,
    }
    before = leaves(tiny.params["dit"])
    after = leaves(merge(tiny.params["dit"], [saved(tensors)]))
    moved = {leaf: after[leaf] - before[leaf] for leaf in after}
    close = lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6)
    close(moved["blocks/cross_attn/norm_k/scale"][1], scale / 2)
    close(moved["blocks/cross_attn/k/bias"][1], bias / 2)
    close(moved["blocks/modulation"][0], modulation[0] / 2)
    kernel = np.einsum("or,rcthw->cthwo", up[..., 0, 0, 0], down).reshape(-1, 32)
    close(moved["patch_embedding/kernel"], kernel / 2)
    assert sum(np.any(x != 0) for x in moved.values()) == 4


def relative(family, rng, out, width, rank=2):
    """(tensors of one module, the change in float64) of LoHa and LoKr; alpha is 3."""
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    if family == "LoHa":
        a, b, c, d = draw(out, rank), draw(rank, width), draw(out, rank), draw(rank, width)
        result = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
        change = np.array([
            [sum(a[i, r] * b[r, j] for r in range(rank)) * sum(c[i, r] * d[r, j] for r in range(rank))
             for j in range(width)] for i in range(out)
        ])  # fmt: skip
        return result, change * 3.0 / rank
    w1, w2 = draw(4, 8), draw(out // 4, width // 8)
    result, scale = {"lokr_w1": w1, "lokr_w2": w2}, 1.0
    if family == "LoKr, low rank":
        a, b = draw(out // 4, rank), draw(rank, width // 8)
        result, w2, scale = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b}, a @ b, 3.0 / rank
    change = np.block([[w1[i, j] * w2 for j in range(8)] for i in range(4)])
    return result, change * scale


@pytest.mark.parametrize("prefix", ["lycoris_blocks_1_ffn_0.", "diffusion_model.blocks.1.ffn.0."])
@pytest.mark.parametrize("family", ["LoHa", "LoKr", "LoKr, low rank"])
def test_products_of_other_kinds(family, prefix, tiny, saved):
    result, change = relative(family, np.random.default_rng(3), 64, 32)
    opened = saved({prefix + n: x for n, x in (result | {"alpha": np.float32([3.0])}).items()})
    before, after = (
        leaves(p)["blocks/ffn/0/kernel"]
        for p in (tiny.params["dit"], merge(tiny.params["dit"], [opened]))
    )
    np.testing.assert_allclose(after[1].T, before[1].T + 0.5 * change, atol=2e-5)
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(change).max() > 0.1


@pytest.mark.parametrize("magnitude, axis", [
    ("lora_magnitude_vector", 1), ("lora_magnitude_vector.default.weight", 1),
    ("dora_scale", 1), ("dora_scale", 0),
])  # fmt: skip
def test_dora(magnitude, axis, tiny, factors, saved):
    module, kernel = "blocks.0.self_attn.q", leaves(tiny.params["dit"])["blocks/self_attn/q/kernel"]
    weight = np.asarray(kernel[0].T, np.float64)
    down, up = factors[module]
    m = np.random.default_rng(4).uniform(0.5, 2, 32).astype(np.float32)
    shape = {"lora_magnitude_vector": (32,)}.get(magnitude, (32, 1) if axis else (1, 32))
    shape = (32,) if "vector" in magnitude else shape
    tensors = in_style("original", {module: (down, up)}) | {
        f"{module}.{magnitude}": m.reshape(shape)
    }
    moved = weight + ALPHA / RANK * (up.astype(np.float64) @ down)
    norm = np.sqrt((moved**2).sum(axis, keepdims=True))
    trained = moved / norm * (m[:, None] if axis else m)
    for strength in (1.0, 0.25):
        merged = merge(tiny.params["dit"], [saved(tensors, strength)])
        result = leaves(merged)["blocks/self_attn/q/kernel"][0].T
        np.testing.assert_allclose(result, weight + strength * (trained - weight), atol=2e-6)
    with pytest.raises(UserError, match="is a DoRA: it cannot be taken out of weights again"):
        saved(tensors, -1.0)


@pytest.mark.parametrize("ending, name", [
    ("oft_blocks", "OFT"), ("oft_R.default.weight", "OFT"), ("a1.weight", "GLoRA"), ("on_input", "IA3"),
    ("lora_mid.weight", "LoRA with a Tucker core"), ("hada_t1", "LoRA with a Tucker core"),
    ("lokr_t2", "LoRA with a Tucker core"), ("vera_lambda_b", "VeRA"),
])  # fmt: skip
def test_other_formats_are_refused_by_their_name(ending, name, factors, saved):
    tensors = in_style("original", factors)
    for module in ("blocks.0.ffn.0", "lora_unet_blocks_0_ffn_0"):
        with pytest.raises(UserError, match=f"of the format {name} .*, which bvjax does not merge"):
            saved(tensors | {f"{module}.{ending}": np.zeros((3, 3), np.float32)})


ZEROS = lambda *shape: np.zeros(shape, np.float32)
MISFITS = {
    "head.head.lora_up.weight has shape [64, 2] instead of [64, 3]": {
        "head.head.lora_up.weight": ZEROS(64, 2)},
    "blocks.0.ffn.2.lora_down.weight has shape [3, 63] instead of [3, 64]": {
        "blocks.0.ffn.2.lora_down.weight": ZEROS(3, 63)},
    "blocks.1.ffn.2.lora_up.weight has dtype int8": {
        "blocks.1.ffn.2.lora_up.weight": np.zeros((32, RANK), np.int8)},
    "blocks.1.norm3.diff_b has shape [31] instead of [32]": {"blocks.1.norm3.diff_b": ZEROS(31)},
    "time_projection.1.alpha has no weights beside it": {"time_projection.1.alpha": ZEROS()},
    "blocks.0.ffn.0.dora_scale has shape [3] instead of [64], [64, 1] or [1, 32]": {
        "blocks.0.ffn.0.dora_scale": ZEROS(3)},
    "blocks.0.self_attn.k.dora_scale has no weights beside it": {
        "blocks.0.self_attn.k.dora_scale": ZEROS(32)},
    "blocks.0.self_attn.k.lora_down.weight has no counterpart": {
        "blocks.0.self_attn.k.lora_down.weight": ZEROS(RANK, 32)},
    "head.head.alpha is not a finite number": {"head.head.alpha": ZEROS(0)},
    "norm3.lora_down.weight is of a tensor with one axis": {
        "blocks.0.norm3.lora_down.weight": ZEROS(3, 3)},
    "is beside tensors of LoRA and LoKr": {"blocks.0.ffn.0.lokr_w1": ZEROS(2, 2)},
    "has no whole lokr_w2 beside it": {"blocks.0.self_attn.k.lokr_w1": ZEROS(2, 2)},
    "lokr_w1 makes [6, 6] instead of [32, 32]": {
        "blocks.0.self_attn.k.lokr_w1": ZEROS(2, 2), "blocks.0.self_attn.k.lokr_w2": ZEROS(3, 3)},
    "has shape [3, 0], which is no matrix": {"head.head.lora_down.weight": ZEROS(3, 0)},
    "is there under two names": {"transformer.blocks.0.attn1.to_q.diff": ZEROS(32, 32)},
    "is there twice": {"model.blocks.0.self_attn.q.lora_A.weight": ZEROS(RANK, 32)},
    "is of no LoRA that bvjax merges": {"blocks.0.self_attn.k.lora_B.bias": ZEROS(32)},
}  # fmt: skip


@pytest.mark.parametrize("match", MISFITS)
def test_what_does_not_fit(match, factors, saved):
    with pytest.raises(UserError, match=re.escape(match)) as error:
        saved(in_style("original", factors) | MISFITS[match])
    assert "lora.safetensors does not fit the DiT: " in str(error.value)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_said_at_once_and_counted(factors, saved):
    tensors = in_style("original", factors)
    tensors["head.head.lora_up.weight"] = ZEROS(64, 2)
    tensors |= {f"blocks.{i}.ffn.0.lora_down.weight": ZEROS(3, 32) for i in range(7, 107)}
    tensors["lora_te_layer.lora_up.weight"] = ZEROS(3, 3)
    with pytest.raises(UserError, match="head.head.lora_up.weight has shape") as error:
        saved(tensors)
    assert "no tensor of this DiT is called blocks.10.ffn.0.lora_down.weight, " in str(error.value)
    assert " and 96 more" in str(error.value) and len(str(error.value)) < 500


def test_bias_of_the_upper_factor(tiny, factors, saved):
    """As PEFT has it: scaled with the product."""
    tensors = in_style("original", factors) | {"head.head.lora_B.bias": np.ones(64, np.float32)}
    before, after = (
        leaves(p)["head/head/bias"]
        for p in (tiny.params["dit"], merge(tiny.params["dit"], [saved(tensors)]))
    )
    np.testing.assert_allclose(after, before + 0.5 * ALPHA / RANK, atol=1e-6)


def test_converting_merges_and_says_so(tiny, factors, saved, tmp_path):
    path = saved(in_style("diffusers", factors)).path
    convert(tiny.weights, tmp_path / "wan", "wan", loras=[(path, 0.5), (path, 0.25)])
    convert(tmp_path / "wan", tmp_path / "back", "bvjax", dtype="bfloat16", loras=[(path, -0.75)])
    # in and out again, rounded once to bfloat16
    stored = load_file(tmp_path / "back" / "dit.safetensors")
    assert {x.dtype for x in stored.values()} == {np.dtype(ml_dtypes.bfloat16)}
    for name, value in load_file(tiny.weights / "dit.safetensors").items():
        np.testing.assert_allclose(np.float32(stored[name]), value, rtol=2**-8, atol=1e-6)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = {"file": "lora.safetensors", "sha256": digest}
    want = [{**entry, "strength": s} for s in (0.5, 0.25, -0.75)]
    assert weights.load_made(tmp_path / "back", "dit")["lora"] == want
    assert "lora" not in weights.load_made(tmp_path / "back", "vae")
    manifest = json.loads((tmp_path / "wan" / "manifest.json").read_text())["parts"]
    assert manifest["dit"]["lora"] == want[:2]
    # the other parts are untouched, and the DiT is what `merge` makes of it, to the bit
    both = [lora.open_lora(path, s, tiny.model) for s in (0.5, 0.25)]
    expected = leaves(merge(tiny.params["dit"], both))
    result = load_file(tmp_path / "wan" / "diffusion_pytorch_model.safetensors")
    np.testing.assert_array_equal(
        result["blocks.1.ffn.0.weight"].T, expected["blocks/ffn/0/kernel"][1]
    )
    a, b = (load_file(f / "vae.safetensors") for f in (tiny.weights, tmp_path / "back"))
    for name in a:
        np.testing.assert_array_equal(a[name].astype(ml_dtypes.bfloat16), b[name])


def test_the_command_line(tiny, factors, saved, tmp_path, capsys):
    path = saved(in_style("original", factors)).path
    command = ["convert", str(tiny.weights), str(tmp_path / "dst"), "--to", "bvjax", "--lora"]
    assert main([*command, f"{path}:x"]) == 2
    assert f"there is no LoRA file {path}:x" in capsys.readouterr().err
    assert not (tmp_path / "dst").exists()
    assert main([*command, f"{path}:-2.5"]) == 0
    assert weights.load_made(tmp_path / "dst", "dit")["lora"][0]["strength"] == -2.5


def test_the_output_changes(tiny, factors, saved):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    inputs = (draw(1, 1, 1, 4, 4, 16), np.full((1, 1), 0.4, np.float32), draw(1, 1, 5, 16))
    positions = np.stack(np.meshgrid([0], [0, 1], [0, 1], indexing="ij"), -1).reshape(1, 1, 4, 3)
    network = jax.jit(WanDiT(tiny.model.dit, 16).apply)
    run = lambda params: np.asarray(network({"params": params}, *inputs, positions)[0])
    params, opened = tiny.params["dit"], [saved(in_style("original", factors))]
    merged = merge(params, opened)
    assert np.abs(run(merged) - run(params)).max() > 0.1
    np.testing.assert_allclose(run(unmerge(merged, opened)), run(params), atol=1e-5)


@pytest.mark.parametrize(
    "text, path, strength",
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("b/a.pt:0.5", "b/a.pt", 0.5),
        ("a:-1", "a", -1.0),
        ("odd:name.safetensors", "odd:name.safetensors", 1.0),
    ],
)
def test_the_argument(text, path, strength):
    result = lora.parse(text)
    assert (str(result[0]), result[1]) == (path, strength)


def test_bad_arguments_and_files(tiny, factors, saved, tmp_path):
    with pytest.raises(UserError, match="strength must be a finite number"):
        lora.parse("a.safetensors:inf")
    with pytest.raises(UserError, match="there is no LoRA file"):
        lora.open_lora(tmp_path / "nowhere.safetensors", 1.0, tiny.model)
    text = tmp_path / "text.safetensors"
    text.write_text("not tensors")
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        lora.open_lora(text, 1.0, tiny.model)
    path = saved(in_style("original", factors)).path
    with pytest.raises(UserError, match="has no DiT that `loras` could change"):
        convert(
            tiny.weights / "vae.safetensors", tmp_path / "dst", "diffusers", loras=[(path, 1.0)]
        )
    with pytest.raises(UserError, match="values that are not finite in float16"):
        convert(
            tiny.weights / "dit.safetensors",
            tmp_path / "dst",
            "bvjax",
            dtype="float16",
            loras=[(path, 1e6)],
        )
    assert not (tmp_path / "dst" / "dit.safetensors").exists()
