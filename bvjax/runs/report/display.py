"""Pictures and players of a video for notebooks: HTML with the film inside, a filmstrip, what the memory did."""

from __future__ import annotations

import base64
import html
import io
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
import PIL.Image
from jaxtyping import Bool, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bvjax.errors import UserError
from bvjax.generate.chunk_memory import ChunkMemory
from bvjax.media import video_io
from bvjax.runs.report.report_picture import draw_retrieval

PLAYER = 384  # pixels of a player's shorter side, about
DIMMED = 0.25  # brightness of what was not kept


def player(frames: UInt8[np.ndarray, "f h w 3"], fps: int, caption: str = "") -> str:
    """Returns HTML that plays the frames, with the film in it as a data URI; it needs no file and no network."""
    height, width = frames.shape[1:3]
    with tempfile.TemporaryDirectory(prefix="bvjax-") as folder:
        path = pathlib.Path(folder) / "video.mp4"
        scale = max(1, PLAYER // min(height, width))
        with video_io.VideoWriter(path, fps, scale) as writer:
            writer.write(frames)
        film = base64.b64encode(path.read_bytes()).decode("ascii")
    told = html.escape(caption)
    return (
        f'<figure style="margin:0"><video controls loop muted playsinline width="{width * scale}" '
        f'aria-label="{told}" src="data:video/mp4;base64,{film}"></video>'
        f'<figcaption style="max-width:{width * scale}px">{told}</figcaption></figure>'
    )


def filmstrip(
    frames: UInt8[np.ndarray, "f h w 3"], count: int, height: int = 128
) -> PIL.Image.Image:
    """Returns `count` frames at equal distances side by side, the first and the last among them.

    Args:
        height: of the strip in pixels.

    Raises `UserError` for a count that is not from 1 to the number of frames.
    """
    if not 1 <= count <= len(frames):
        raise UserError(
            f"count is {count}; it must be from 1 to {len(frames)}, the frames there are"
        )
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return _row(frames[chosen], height)


def retrieval_map(memory: Sequence[ChunkMemory]) -> PIL.Image.Image:
    """Returns a picture of which past chunks each chunk looked back at, and in which role.

    Raises `UserError` where there is no chunk.
    """
    if not memory:
        raise UserError("there is no chunk whose memory could be drawn")
    chunks = [
        {
            "chunk": number,
            "retrieved": [{"chunk": entry.chunk, "role": entry.role} for entry in one.retrieved],
        }
        for number, one in enumerate(memory, 1)
    ]
    size = max(3.5, 0.35 * len(chunks) + 1.5)
    figure = Figure(figsize=(size * 1.25, size), facecolor="white", layout="constrained")
    canvas, axis = FigureCanvasAgg(figure), figure.subplots()
    numbers = np.arange(1, len(chunks) + 1)
    draw_retrieval(axis, numbers, chunks)
    axis.set_xticks(numbers)
    axis.set_xlabel("chunk", fontsize=9)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return PIL.Image.open(buffer)


def kept_picture(
    frames: UInt8[np.ndarray, "l H W 3"], kept: Bool[np.ndarray, "y l h w"], height: int = 128
) -> PIL.Image.Image:
    """Returns a row of pictures, one for each latent frame, bright where layers kept the tokens and dim where not.

    Args:
        frames: a picture of each latent frame.
        kept: whether a layer kept the key and value of a token in the bank.
        height: of the row in pixels.
    """
    row = _row(frames, height)
    share = np.concatenate(list(kept.mean(axis=0)), axis=1)
    light = PIL.Image.fromarray(np.float32(DIMMED + (1 - DIMMED) * share), mode="F")
    brightness = np.asarray(light.resize(row.size, PIL.Image.Resampling.NEAREST))
    return PIL.Image.fromarray(np.uint8(np.asarray(row) * brightness[..., None]))


def _row(frames: UInt8[np.ndarray, "n h w 3"], height: int) -> PIL.Image.Image:
    """Pictures side by side, `height` pixels high."""
    width = round(height * frames.shape[2] / frames.shape[1])
    row = PIL.Image.new("RGB", (len(frames) * width, height))
    for place, frame in enumerate(frames):
        still = PIL.Image.fromarray(frame)
        still = still.resize((width, height), PIL.Image.Resampling.LANCZOS)
        row.paste(still, (place * width, 0))
    return row
