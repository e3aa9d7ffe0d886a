"""Clips and weights on which the published LV-Bench evaluator was run: numbers seeded by a name.

Its scores lie in published.json, made by `make_published`; the networks are the published ones in
size, with the random weights of `metric_recipe`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from bvjax.media.source_video import write_copy
from tests.golden import metric_recipe

FILE = pathlib.Path(__file__).with_name("published.json")
SEGMENTS = 10
CELL = 16  # pixels between the corners of a texture


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip, and the metrics that are measured on it."""

    name: str
    frames: int
    height: int
    width: int
    fps: int
    metrics: tuple[str, ...]


CLIPS = (
    # Segments of 3 frames, 3 dropped; sizes that every padding and crop cuts unevenly.
    Clip("small", 33, 141, 171, 8, ("subject", "background", "motion", "clarity", "dynamic")),
    # Segments of 4 frames, one of which motion ignores; every second frame for the flow, so that
    # segments of 2 are left, whose one pair counts however slow it is: no fast one is asked for.
    Clip("even", 43, 141, 171, 16, ("motion", "dynamic")),
    # One frame a segment, and larger than clarity's network sees.
    Clip("large", 12, 300, 540, 8, ("aesthetic", "clarity")),
)
# Gains and offsets of tensors whose names end so: with the recipe alone attention is so even that all
# frames look alike to the towers, scores lie around 0, pictures saturate, and all flows are huge.
CHANGES = {
    "dino_vitb16": {"qkv.weight": (1.5, 0.0)},
    "clip_vit_b32": {"in_proj_weight": (1.5, 0.0)},
    "clip_vit_l14": {"in_proj_weight": (1.5, 0.0)},
    "laion_aesthetic": {"weight": (30.0, 0.0), "bias": (1.0, 5.0)},
    "musiq_spaq": {"head.weight": (20.0, 0.0), "head.bias": (1.0, 50.0)},
    "amt_s": {
        "comb_block.0.weight": (0.1, 0.0),
        "comb_block.2.weight": (0.1, 0.0),
        "decoder1.convblock.2.weight": (0.3, 0.0),
    },
    "raft_things": {
        "encoder.convc1.weight": (0.25, 0.0),
        "flow_head.conv2.weight": (0.03341, 0.0),
        "flow_head.conv2.bias": (0.0, 0.0),
    },
}


def frames(clip: Clip) -> UInt8[np.ndarray, "t h w 3"]:
    """A texture that pans, with a patch of another one moving over it; integers only.

    Contrast falls, and noise and speed grow, from segment to segment; the frames that are left over
    are negatives, so that the scores of a whole clip show whether they count.
    """
    height, width, length = clip.height, clip.width, clip.frames // SEGMENTS
    ground = _texture(f"{clip.name}/ground", height, width + 256)
    patch = _texture(f"{clip.name}/patch", height // 3, width // 3)
    made, place = [], 0
    for t in range(clip.frames):
        segment = min(t // length, SEGMENTS)
        place += 1 + segment // 2
        picture = ground[:, place % 256 : place % 256 + width].copy()
        x = (5 * place) % (width - width // 3)
        picture[height // 3 : height // 3 + len(patch), x : x + patch.shape[1]] = patch
        picture = (picture - 128) * (32 - segment) // 32 + 128
        noise = 1 + 2 * segment
        picture += _bytes(f"{clip.name}/{t}", picture.shape) * noise // 256 - noise // 2
        picture = 255 - picture if segment == SEGMENTS else picture
        made.append(np.uint8(picture.clip(0, 255)))
    return np.stack(made)


def write(clip: Clip, folder: pathlib.Path) -> pathlib.Path:
    """A clip as a file that loses nothing, so that all decoders give the same frames."""
    path = folder / f"{clip.name}.mp4"  # Matroska inside; the evaluator takes .mp4 alone
    write_copy(path, frames(clip), clip.fps)
    return path


def digest(pictures: UInt8[np.ndarray, "t h w 3"]) -> str:
    """Of the frames that scores belong to."""
    return hashlib.sha256(pictures.tobytes()).hexdigest()


def weights(net: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Recipe weights under published names, with gains that make scores tell frames apart."""
    drawn = metric_recipe.params(net, shapes, metric_recipe.PRELU if net == "amt_s" else "")
    for name in drawn:
        for ending, (gain, offset) in CHANGES[net].items():
            if name.endswith(ending):
                drawn[name] = np.float32(drawn[name] * np.float32(gain) + np.float32(offset))
    return drawn


def published() -> dict[str, Any]:
    """What published.json holds."""
    return json.loads(FILE.read_text())


def _bytes(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Integers 0 .. 255 that depend on `name`."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(-(-math.prod(shape) // 8))
    return np.frombuffer(words.tobytes(), np.uint8)[: math.prod(shape)].reshape(shape).astype(int)


def _texture(name: str, height: int, width: int) -> np.ndarray:
    """Random colours at the corners of cells, and linear between them."""
    corners = _bytes(name, (height // CELL + 2, width // CELL + 2, 3))
    y, x = np.arange(height), np.arange(width)
    down, right = (y % CELL)[:, None, None], (x % CELL)[None, :, None]
    rows = corners[y // CELL] * (CELL - down) + corners[y // CELL + 1] * down
    return (rows[:, x // CELL] * (CELL - right) + rows[:, x // CELL + 1] * right) // CELL**2
