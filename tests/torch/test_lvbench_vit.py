"""CLIP, DINO, their preprocessing and VBench's consistency against PyTorch."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bvjax.lvbench.nets import clip_vision, dino, resize
from bvjax.lvbench.official import preprocess
from bvjax.lvbench.official.consistency import consistency
from experiments.benchmarks import metric_networks_torch as twins
from tests.golden.metric_recipe import params as draw
from tests.golden.recipe import uniform

# Height and width before and after; the last keeps its height.
SIZES = (
    ((48, 85), (22, 39)),
    ((45, 80), (224, 398)),
    ((97, 101), (383, 384)),
    ((14, 14), (14, 24)),
)


@pytest.mark.parametrize("kind", resize.KINDS)
def test_resizing(kind, record_parity):
    """By the ratio of the sizes, and by a factor of its own."""
    options = {} if kind == "nearest" else {"align_corners": False}
    for before, after in SIZES:
        x = _frames(2, before).astype(np.float32)
        factors = tuple((a + 0.1) / b for a, b in zip(after, before, strict=True))
        for scale in (None, factors):
            if kind == "nearest" and scale and before[0] == after[0]:
                continue  # PyTorch's kernels disagree on an axis that does not change
            size = after if scale is None else None
            want = F.interpolate(_nchw(x), size=size, scale_factor=scale, mode=kind, **options)
            got = np.asarray(resize.resize(x, after, kind, scale))
            error = np.abs(_nhwc(want) - got).max()
            record_parity(
                f"LV-Bench: resizing, {kind}", "torch F.interpolate", error, 2e-4, np.abs(got).max()
            )


@pytest.mark.parametrize("size", [(30, 53), (480, 854)])
def test_preprocessing(size, record_parity):
    """The transforms of the published evaluator, composed here of torchvision's parts."""
    try:
        twins.torchvision()
    except ImportError:
        pytest.skip("torchvision is not installed")
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize

    frames = _frames(1, size)
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    cubic = Resize(224, interpolation=InterpolationMode.BICUBIC, antialias=False)
    grey = lambda x: x / 255
    clip = Compose([cubic, CenterCrop(224), grey, Normalize(mean, deviation)])
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    whole = Compose([Resize(224, antialias=False), grey, Normalize(mean, deviation)])
    for name, ours, theirs in (
        ("DINO", preprocess.dino_input, whole),
        ("CLIP", preprocess.clip_input, clip),
    ):
        want = _nhwc(theirs(_nchw(frames).float()))
        got = np.asarray(jax.jit(ours)(frames))
        error, reference = np.abs(want - got).max(), "torchvision.transforms"
        record_parity(f"LV-Bench: frames for {name}", reference, error, 1e-5, np.abs(want).max())


@pytest.mark.parametrize(
    "name, tower, heads",
    [
        ("clip_vit_b32", clip_vision.Tower(48, 3, 8, 4, 20), 3),
        # the published depth, patches and number of tokens
        ("clip_vit_l14", clip_vision.Tower(64, 24, 14, 16, 24), 2),
    ],
)
def test_clip(name, tower, heads, record_parity):
    tensors = draw(name, clip_vision.shapes(tower))
    x = uniform(name, (2, *2 * (tower.patch * tower.grid,), 3))
    with torch.inference_mode():
        want = twins.clip(tensors, heads)(_nchw(x)).image_embeds.numpy()
    got = jax.jit(clip_vision.clip, static_argnums=2)(clip_vision.prepare(tensors), x, heads)
    size = np.abs(want).max()
    error, reference = np.abs(want - got).max(), "transformers CLIPVisionModelWithProjection"
    record_parity(f"LV-Bench: CLIP, {tower.layers} layers", reference, error, 1e-5 * size, size)


def test_dino_of_a_square(record_parity):
    """The published depth; pictures that are not square have golden files of the published class."""
    tensors = draw("dino_vitb16", dino.shapes(width=48, layers=12, patch=8, grid=6))
    x = uniform("square", (2, 48, 48, 3))
    with torch.inference_mode():
        want = twins.vit(tensors, (48, 48), heads=3)(_nchw(x)).last_hidden_state[:, 0].numpy()
    got = jax.jit(dino.dino, static_argnums=2)(dino.prepare(tensors), x, 3)
    size = np.abs(want).max()
    error = np.abs(want - got).max()
    record_parity("LV-Bench: DINO, 12 layers", "transformers ViTModel", error, 1e-5 * size, size)


def test_consistency(record_parity):
    """The evaluator's loop over frames with PyTorch's normalisation and cosine."""
    features = np.float32(0.3 + uniform("features", (9, 32)) + uniform("all alike", (32,)))
    features[4] *= -1  # its negative cosines count as 0
    unit = F.normalize(torch.from_numpy(features), dim=-1)
    cosine = lambda a, b: max(0.0, F.cosine_similarity(unit[a : a + 1], unit[b : b + 1]).item())
    want = np.mean([(cosine(t - 1, t) + cosine(0, t)) / 2 for t in range(1, 9)])
    error = abs(consistency(features) - want)
    record_parity("LV-Bench: consistency", "torch F.cosine_similarity", error, 1e-6, want)


def _frames(count: int, size: tuple[int, int]) -> np.ndarray:
    return np.uint8(np.round(127 + 73 * uniform(f"frames {size}", (count, *size, 3))))


def _nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def _nhwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()
