"""Small videos for tests of the evaluator, and metrics that are easy to work out by hand."""

from __future__ import annotations

import av
import jax.numpy as jnp
import numpy as np

from bvjax.lvbench.batching import Batcher
from bvjax.lvbench.metric import Scores
from bvjax.lvbench.vde import segment_means


def write_clip(path, levels, size=(16, 24), fps=8, codec=None):
    """A frame per level (a grey level, or a picture); FFV1 (exact) unless the suffix asks for another codec."""
    codec = codec or {".mp4": "libx264", ".webm": "libvpx-vp9", ".gif": "gif"}.get(
        path.suffix, "ffv1"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = {"ffv1": "bgr0", "gif": "rgb8"}.get(codec, "yuv420p")
        for level in levels:
            picture = np.broadcast_to(np.uint8(level), (*size, 3)).copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


class Brightness:
    """Mean grey level per frame, by way of a batch on the device."""

    name = "paper/brightness"
    least_frames = 2

    def __init__(self, batch=3, layout=None, offset=0.0):
        self.settings = {"offset": offset}
        call = lambda params, frames: frames.astype(jnp.float32).mean((1, 2, 3)) + params
        self.batcher = Batcher(call, np.float32(offset), batch, layout)

    def begin(self, video, segments):
        return _Measurement(self.batcher, segments)


class _Measurement:
    def __init__(self, batcher, segments):
        self.batcher, self.segments, self.pending = batcher, segments, []

    def add(self, block):
        assert block.first == len(self.pending)
        self.pending += [self.batcher.submit(frame) for frame in block.frames]

    def scores(self):
        levels = [float(p.value()) for p in self.pending]
        return Scores(tuple(segment_means(levels, self.segments)), float(np.mean(levels)))
