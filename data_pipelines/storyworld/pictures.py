"""Encoded pictures of storyworld: what the DiT learns the meaning of words from.

An example is one panorama with many casts (`recast`): first frames, and latents from the end of a clip's first chunk,
each with a caption that needs no other frame. Training makes those that its folder lacks;
`data_pipelines.storyworld.encode_kept` makes them ahead of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipelines.encoded.encoders import Encoders
from data_pipelines.encoded.kept import KeptExamples, open_kept
from data_pipelines.storyworld.recast import pictures, settled_clip

FIRST_FRAMES, STEADY = 12, 4  # of an example: first frames, and steady latents of one clip


def encode_pictures(encoders: Encoders, split: str, index: int) -> dict[str, np.ndarray]:
    """Returns the pictures of panorama `index`, float16.

    pictures     [p, h, w, z]  normalised latents
    picture_text [p, t, dt]    text states of their captions
    """
    c, factor = encoders.model.chunk, encoders.model.vae.temporal_factor
    size = dict(height=c.height, width=c.width, fps=c.fps)
    stills = pictures(index, FIRST_FRAMES, split=split, **size)
    clip, caption = settled_clip(index, STEADY * factor, split=split, **size)
    first = encoders.clips(np.stack([picture.pixels for picture in stills])[:, None])[:, 0]
    latents = np.concatenate([first, encoders.clips(clip[None])[0, -STEADY:]])
    text, _ = encoders.text([*(picture.caption for picture in stills), caption])
    rows = [*range(FIRST_FRAMES), *([FIRST_FRAMES] * STEADY)]
    return {
        "pictures": latents.astype(np.float16),
        "picture_text": text[rows].astype(np.float16),
    }


def open_pictures(weights: str | Path, root: str | Path, split: str) -> KeptExamples:
    """Returns the pictures of a split, kept in `root`; raises as `open_kept`."""
    return open_kept(weights, root, split, encode_pictures, ("picture_text",))
