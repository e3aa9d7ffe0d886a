"""RAFT, AMT-S and their parts: against equations, and whole against the published networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.nets import amt, conv, correlation, raft, sampling
from tests.golden import flow_cases

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def bilinear(picture, x, y, outside):
    """Four neighbours by hand; picture [h, w, c]."""
    height, width = picture.shape[:2]
    total = 0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            if outside == "border":
                value = picture[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
            elif 0 <= row < height and 0 <= column < width:
                value = picture[row, column]
            else:
                value = 0
            total = total + weight * value
    return total


@pytest.mark.parametrize("outside", sampling.OUTSIDE)
def test_samples_between_and_outside_of_pixels(outside):
    pictures = normal(2, 3, 4, 2)
    at = np.float32(RNG.uniform(-2, 5, (2, 5, 2)))
    at[:, 0], at[:, 1] = (3, 2), (1e6, -1e6)  # the last pixel itself, far outside
    result = jax.jit(sampling.sample, static_argnums=2)(pictures, at, outside)
    for b in range(2):
        for i, (x, y) in enumerate(at[b]):
            expected = bilinear(pictures[b], float(x), float(y), outside)
            np.testing.assert_allclose(result[b, i], expected, rtol=1e-5, atol=1e-6)
    one = np.ones((1, 1, 1, 1), np.float32)
    half = sampling.sample(one, np.full((1, 1, 2), 0.5, np.float32), outside).item()
    assert half == (1.0 if outside == "border" else 0.25)
    with pytest.raises(UserError, match="border or zeros"):
        sampling.sample(pictures, at, "mirror")


def test_windows_walk_along_x_first():
    """Offsets (i, j) of the published lookup are added to (x, y), not to (y, x)."""
    b, h, w, d = 2, 3, 9, 4
    first, second = normal(b, h, w, d), normal(b, h, w, d)
    at = np.float32(RNG.uniform(-4, 10, (b, h, w, 2)))
    at[0, 0, 0] = (-1e7, 1e7)
    lookup = lambda a, c, at: correlation.windows(correlation.pyramid(a, c, 1), at, 1)
    result = np.asarray(jax.jit(lookup)(first, second, at))
    assert result.shape == (b, h, w, 4 * 9)
    products = np.einsum("byxd,bvud->byxvu", first, second) / 2
    halved = products[..., :2, :8].reshape(b, h, w, 1, 2, 4, 2).mean((4, 6))  # 1 x 4; then none
    for n, y, x in ((0, 0, 0), (0, 2, 1), (1, 1, 8)):
        place = np.float64(at[n, y, x])
        for level, maps in enumerate((products, halved)):
            expected = [
                bilinear(maps[n, y, x], *(place / 2**level + (i, j)), "zeros")
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            ]
            part = result[n, y, x, 9 * level : 9 * level + 9]
            np.testing.assert_allclose(part, expected, rtol=1e-4, atol=1e-5)
        assert not result[n, y, x, 18:].any()  # maps without pixels


def test_doubling_is_the_transposed_convolution():
    """Input pixel (y, x) adds kernel[k, l] to output pixel (2 y + k - 1, 2 x + l - 1)."""
    x, kernel, bias = normal(1, 3, 2, 2), normal(2, 3, 4, 4), normal(3)
    expected = np.zeros((6 + 2, 4 + 2, 3))
    for row in range(3):
        for column in range(2):
            added = np.einsum("i,iokl->klo", x[0, row, column], kernel)
            expected[2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += added
    result = conv.doubling(x, conv.doubling_kernel(kernel), bias)
    np.testing.assert_allclose(result[0], expected[1:-1, 1:-1] + bias, rtol=1e-4, atol=1e-5)


def test_norms_and_padding():
    x = normal(1, 5, 6, 3)
    kernel, bias = normal(4, 3, 1, 1), normal(4)
    norm = {
        "n.weight": normal(4),
        "n.bias": normal(4),
        "n.running_mean": normal(4),
        "n.running_var": normal(4) ** 2,
    }
    folded, shift = conv.fold_norm(kernel, bias, norm, "n")
    plain = x @ kernel[:, :, 0, 0].T + bias
    expected = (plain - norm["n.running_mean"]) / np.sqrt(norm["n.running_var"] + 1e-5)
    expected = expected * norm["n.weight"] + norm["n.bias"]
    np.testing.assert_allclose(
        conv.conv(x, conv.hwio(folded), shift), expected, rtol=1e-3, atol=1e-4
    )
    expected = (x - x.mean((1, 2))) / np.sqrt(x.var((1, 2)) + 1e-5)
    np.testing.assert_allclose(conv.instance_norm(jnp.asarray(x)), expected, atol=1e-5)
    padded = conv.pad_to(x, 8)  # 1 above and 2 below, 1 on each side
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (1, 2), (1, 1), (0, 0)), "edge"))
    np.testing.assert_array_equal(conv.crop_to(padded, (5, 6)), x)
    assert conv.pad_to(padded, 8).shape == padded.shape


def test_fine_flow_is_made_of_the_nine_around():
    coarse = normal(1, 2, 3, 2)
    logits = np.zeros((1, 2, 3, 9, 8, 8), np.float32)
    logits[0, 1, 1, 5, 2, 7] = 100  # to the right of (1, 1), for its fine pixel (2, 7)
    logits[0, 0, 1, 1, 3, 4] = 100  # above (0, 1): outside, zero
    fine = jax.jit(raft.upsample)(coarse, logits.reshape(1, 2, 3, -1))
    np.testing.assert_allclose(fine[0, 8 + 2, 8 + 7], 8 * coarse[0, 1, 2], rtol=1e-5)
    np.testing.assert_allclose(fine[0, 3, 8 + 4], 0, atol=1e-5)
    np.testing.assert_allclose(fine[0, 8, 8], 8 * coarse[0].sum((0, 1)) / 9, rtol=1e-4)


def test_have_the_published_tensors():
    count = lambda shapes: sum(int(np.prod(shape)) for shape in shapes.values())
    assert len(amt.shapes()) == 213 and count(amt.shapes()) == 2_990_543
    shapes = raft.shapes()
    assert len(shapes) == 154
    running = [n for n in shapes if ".running_" in n]
    assert count(shapes) - count({n: shapes[n] for n in running}) == 5_257_536  # torchvision's
    assert not any("norm3" in n or "num_batches" in n for n in shapes)
    assert amt.shapes()["decoder4.convblock.2.weight"] == (112, 48, 4, 4)


@pytest.mark.slow
def test_raft_gives_the_published_flow():
    expected = np.load(flow_cases.RAFT_FILE)
    params = raft.prepare(flow_cases.tensors("raft_things"))
    pair = [np.float32(frame)[None] for frame in flow_cases.frames()]
    call = jax.jit(raft.flow)  # with any number of updates
    for count in flow_cases.ITERATIONS:
        flow = call(params, *pair, count)
        size = np.abs(expected[f"flow{count}"]).max()
        error = np.abs(flow_cases.kept(flow[0]) - expected[f"flow{count}"]).max()
        assert error < 1e-4 * size, (count, error / size)


@pytest.mark.slow
def test_amt_guesses_the_published_frame():
    """And each row of a batch depends on its own pair alone."""
    params = amt.prepare(flow_cases.tensors("amt_s"))
    first, second = (np.float32(frame) / 255 for frame in flow_cases.frames())
    both = jax.jit(amt.interpolate)(
        params, np.stack([first, second]), np.stack([second, first[::-1]])
    )
    expected = np.load(flow_cases.AMT_FILE)["guess"]
    assert np.abs(flow_cases.kept(both[0]) - expected).max() < 2e-5


@pytest.mark.slow
def test_rows_of_a_batch_are_independent():
    """Tiny RAFT, on pictures so small that the last correlation maps have no pixels."""
    params = raft.prepare(flow_cases.metric_recipe.params("raft", raft.shapes(shrink=8, radius=1)))
    first, second = 255 * RNG.random((2, 3, 24, 40, 3), dtype=np.float32)
    call = jax.jit(functools.partial(raft.flow, iterations=2))
    every = np.asarray(call(params, first, second))
    assert every.shape == (3, 24, 40, 2) and np.isfinite(every).all()
    alone = np.asarray(call(params, first[1:2], second[1:2]))
    np.testing.assert_allclose(every[1:2], alone, atol=1e-5 * np.abs(every).max())


def test_pictures_whose_correlations_do_not_fit_are_refused():
    correlation.check_size("RAFT", 1080, 1920, volumes=1)
    correlation.check_size("AMT", 1080, 1920, volumes=2)
    with pytest.raises(UserError, match="3840x2160 are too large for RAFT.* 90 GB"):
        correlation.check_size("RAFT", 2160, 3840, volumes=1)
