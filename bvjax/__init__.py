"""bvjax: minute-long video by block diffusion with a semantic sparse KV bank, in JAX.

    import bvjax

    pipeline = bvjax.load("mini")
    video = pipeline.generate("On a bright morning, a small orange fox called Pip waves hello.")
    video.save("fox.mp4")

Importing bvjax imports nothing else: what is named here is found when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bvjax.conversion.converter import convert
    from bvjax.errors import UserError, WorkError
    from bvjax.lvbench.evaluation import evaluate_videos as evaluate
    from bvjax.runs.pipeline import Pipeline, load
    from bvjax.runs.video import Chunk, Video

__version__ = "0.2.0"
__all__ = [
    "Chunk",
    "Pipeline",
    "UserError",
    "Video",
    "WorkError",
    "__version__",
    "convert",
    "evaluate",
    "load",
]

_PLACES = {
    "Chunk": ("bvjax.runs.video", "Chunk"),
    "Pipeline": ("bvjax.runs.pipeline", "Pipeline"),
    "UserError": ("bvjax.errors", "UserError"),
    "Video": ("bvjax.runs.video", "Video"),
    "WorkError": ("bvjax.errors", "WorkError"),
    "convert": ("bvjax.conversion.converter", "convert"),
    "evaluate": ("bvjax.lvbench.evaluation", "evaluate_videos"),
    "load": ("bvjax.runs.pipeline", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place, attribute = _PLACES[name]
    return getattr(importlib.import_module(place), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
