"""Preprocessing of frames for the networks, on the device, as in the published evaluator."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from bvjax.lvbench.nets import clip_vision, resize

SHORT = 224  # pixels of the shorter side
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def dino_input(frames: UInt8[Array, "b h w 3"]) -> Float[Array, "b H W 3"]:
    """Shorter side 224, bilinear without antialiasing, whole; ImageNet's mean and deviation."""
    size = resize.short_side(*frames.shape[1:3], SHORT)
    return _normalised(resize.resize(frames, size, "bilinear"), *_IMAGENET)


def clip_input(
    frames: UInt8[Array, "b h w 3"], side: int = clip_vision.SIDE
) -> Float[Array, "b s s 3"]:
    """Shorter side 224, bicubic without antialiasing, the middle square; CLIP's mean and deviation.

    The cubic kernel overshoots, and neither black nor white clips it: the evaluator resizes
    frames that are floating-point numbers already.
    """
    height, width = resize.short_side(*frames.shape[1:3], side)
    x = resize.resize(frames, (height, width), "bicubic")
    top, left = round((height - side) / 2), round((width - side) / 2)  # halves to even
    return _normalised(x[:, top : top + side, left : left + side], *_CLIP)


def _normalised(x: Float[Array, "b h w 3"], mean: tuple, deviation: tuple) -> Array:
    return (x / 255 - jnp.asarray(mean, np.float32)) / jnp.asarray(deviation, np.float32)
