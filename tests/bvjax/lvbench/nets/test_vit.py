"""The vision transformers: names, the published DINO's answers, rows that know only themselves."""

import hashlib

import jax
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.nets import clip_vision, dino
from tests.golden import dino_cases as cases
from tests.golden.metric_recipe import params as draw
from tests.golden.recipe import uniform


def golden():
    with np.load(cases.FILE) as file:
        return dict(file)


@pytest.mark.parametrize(
    "shapes, count, digest",
    [
        (dino.shapes, 150, "9cf2dd63a9e874ec"),
        (clip_vision.shapes, 152, "9972162b816dcf5e"),
        (lambda: clip_vision.shapes("l14"), 296, "79e7ff8a7e5ceece"),
    ],
)
def test_names_and_shapes_are_the_published_ones(shapes, count, digest):
    """The digest is of the published checkpoint's listing, sorted: "name (size, size)"."""
    lines = sorted(f"{name} {shape}" for name, shape in shapes().items())
    assert len(lines) == count
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


def test_dino_answers_as_the_published_classes():
    expected, params = golden(), dino.prepare(cases.tensors(**cases.SIZES))
    net = jax.jit(dino.dino, static_argnums=2)
    for size in cases.PICTURES:
        actual = net(params, cases.picture(size), cases.HEADS)
        np.testing.assert_allclose(actual, expected[cases.name(size)], atol=5e-6)


def test_dino_positions_of_a_480p_frame():
    table = cases.tensors(**cases.POSITIONS)["pos_embed"]
    actual = dino.positions(table, *cases.FRAME, 16)
    np.testing.assert_allclose(actual, golden()["positions"], atol=2e-6)


def test_the_offset_of_positions_is_felt(monkeypatch):
    table = cases.tensors(**cases.POSITIONS)["pos_embed"]
    monkeypatch.setattr(dino, "_OFFSET", 0.0)
    actual = dino.positions(table, *cases.FRAME, 16)
    assert np.abs(actual - golden()["positions"]).max() > 1e-2


def test_clip_is_its_equations():
    """One layer and head in NumPy, written out; both published towers against PyTorch elsewhere."""
    tower = clip_vision.Tower(width=8, layers=1, patch=2, grid=2, features=3)
    w = {n.removeprefix("visual."): np.float64(v) for n, v in _tensors(tower).items()}
    block = {n.removeprefix("transformer.resblocks.0."): v for n, v in w.items()}

    def norm(x, name, of):
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return unit * of[name + ".weight"] + of[name + ".bias"]

    x = uniform("picture", (1, 4, 4, 3))
    squares = [x[0, i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2)]
    rows = [np.einsum("hwc,ochw->o", square, w["conv1.weight"]) for square in squares]
    t = norm(np.stack([w["class_embedding"], *rows]) + w["positional_embedding"], "ln_pre", w)
    qkv = norm(t, "ln_1", block) @ block["attn.in_proj_weight"].T + block["attn.in_proj_bias"]
    q, k, v = np.split(qkv, 3, axis=-1)
    weights = np.exp(q @ k.T / np.sqrt(8))
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    t = t + mixed @ block["attn.out_proj.weight"].T + block["attn.out_proj.bias"]
    up = norm(t, "ln_2", block) @ block["mlp.c_fc.weight"].T + block["mlp.c_fc.bias"]
    up = up / (1 + np.exp(-1.702 * up))
    t = t + up @ block["mlp.c_proj.weight"].T + block["mlp.c_proj.bias"]
    expected = norm(t[0], "ln_post", w) @ w["proj"]
    actual = clip_vision.clip(clip_vision.prepare(_tensors(tower)), x, heads=1)
    np.testing.assert_allclose(actual[0], expected, atol=5e-6)


def test_aesthetic_head():
    head = {"weight": np.float32([[1, -2]]), "bias": np.float32([5])}
    actual = clip_vision.aesthetic(clip_vision.prepare_head(head), np.float32([[3, 4], [0, 0]]))
    np.testing.assert_allclose(actual, [5 + 0.6 - 1.6, 5], rtol=1e-6)


def test_an_unknown_tower():
    with pytest.raises(UserError, match="'b16'; there are b32, l14"):
        clip_vision.shapes("b16")


def _tensors(tower):
    return draw("clip_vit_b32", clip_vision.shapes(tower))
