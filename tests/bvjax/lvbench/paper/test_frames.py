"""The scores of single frames, pairs and triples against their equations."""

import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.clarity import clarity, luminance
from bvjax.lvbench.official import aesthetic as official_aesthetic
from bvjax.lvbench.paper import aesthetic, background, motion
from bvjax.lvbench.paper.clarity import sharpness
from bvjax.lvbench.paper.flow import Flow
from bvjax.lvbench.paper.motion_smoothness import smoothness
from tests.bvjax.lvbench.paper import scenes


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(24, 37), (3, 3), (480, 853)])
def test_clarity_is_the_other_clarity(size):
    frames = noise(1, *size, 3)
    np.testing.assert_allclose(sharpness(frames[0]), clarity(frames)[0], rtol=1e-5)
    soft = frames // 64 + 100  # 20 / 12 of a rounded luminance would show here
    np.testing.assert_allclose(sharpness(soft[0]), clarity(soft)[0], rtol=1e-5)


def test_smoothness_is_the_mean_second_difference():
    f = [noise(9, 11, 3, seed=i) for i in range(3)]
    a, b, c = (x.astype(float) for x in f)
    np.testing.assert_allclose(smoothness(*f), 1 - np.abs(b - (a + c) / 2).mean() / 255, rtol=1e-12)


def test_motion_and_staticness_count_only_what_they_should():
    field = np.zeros((1, 2, 3, 2), np.float32)
    field[0, 0] = [(3, 4), (0, 0), (0.6, 0.8)]  # lengths 5, 0, 1; the second row stands still
    textured = np.array([[[True, False, True], [True, True, False]]])
    assert list(motion.energies(Flow(7, field, textured))) == [(7, pytest.approx(6 / 4))]
    assert list(motion.energies(Flow(7, field, ~textured & False))) == [(7, 0.0)]
    np.testing.assert_allclose(background.staticness(field, textured, 1.0001), [3 / 4])
    np.testing.assert_allclose(background.staticness(field, textured, 0.9999), [2 / 4])
    assert np.isnan(background.staticness(field, textured & False, 1.0)).all()


def test_the_handmade_aesthetic_is_its_four_terms():
    picture = noise(20, 30, 3) // 2
    luma = luminance(picture).round().astype(np.uint8)
    r, g, b = picture.astype(float).reshape(-1, 3).T
    rg, yb, y = r - g, (r + g) / 2 - b, luma.astype(float)
    vivid = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    p = np.pad(y, 1, mode="reflect")
    v = (p[2:, 1:-1] + p[:-2, 1:-1] + p[1:-1, 2:] + p[1:-1, :-2] - 4 * y).var()
    exposure = np.exp(-((y / 255 - 0.5) ** 2) / (2 * 0.2**2)).mean()
    expected = np.mean([vivid / 109, y.std() / 127.5, exposure, v / (v + 500)])
    assert vivid < 109
    np.testing.assert_allclose(aesthetic.handmade(picture, luma), expected, rtol=1e-5)


def brightness(frames):
    return frames.mean((1, 2, 3))


def one_too_few(frames):
    return frames.mean((1, 2, 3))[1:]


def test_an_aesthetic_predictor_of_ones_own():
    frames, here = scenes.clip(), f"{__name__}:"
    metric = aesthetic.make(scenes.context(aesthetic=here + "brightness"))
    expected = brightness(frames).reshape(scenes.SEGMENTS, -1).mean(1)
    actual = scenes.measure([metric], frames)["paper/aesthetic"].chunks
    np.testing.assert_allclose(actual, expected)
    with pytest.raises(UserError, match="gave .15. scores for 16 frames"):
        scenes.measure([aesthetic.make(scenes.context(aesthetic=here + "one_too_few"))], frames)


def test_laions_predictor_is_the_complementary_metrics(monkeypatch):
    output = lambda context: Batcher(lambda _, x: x.mean((1, 2, 3)), {}, context.options.batch)
    monkeypatch.setattr(official_aesthetic, "laion_scores", output)
    frames = scenes.clip()
    actual = scenes.measure([aesthetic.make(scenes.context(aesthetic="laion", batch=7))], frames)
    expected = brightness(frames).reshape(scenes.SEGMENTS, -1).mean(1)
    np.testing.assert_allclose(actual["paper/aesthetic"].chunks, expected, rtol=1e-5)


@pytest.mark.parametrize("choice", ["pretty", "no.such.module:f", f"{__name__}:nothing", "os:sep"])
def test_a_wrong_predictor_is_told(choice):
    with pytest.raises(UserError, match="the option aesthetic is"):
        aesthetic.make(scenes.context(aesthetic=choice))
