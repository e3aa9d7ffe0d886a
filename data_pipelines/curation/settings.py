"""The numbers by which stages decide: a section for each, so that a changed one does only its stage again.

Defaults are those of published pipelines where there are such: PySceneDetect's detector (0.7), cosmos-curate's and
Open-Sora's lengths and margins, 2 frames a second as in the paper (appendix A.6).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bvjax.errors import UserError
from bvjax.overrides import from_dict


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Cuts, and what is measured of frames along the film."""

    threshold: float = 3.0  # of PySceneDetect's AdaptiveDetector: how much a frame differs, in its neighbours' differences
    least_content: float = 15.0  # of it: the least difference that is a cut
    least_frames: int = 15  # between cuts
    transnet: str = ""  # an ONNX file of TransNetV2, which then finds the cuts; needs onnxruntime
    samples: float = 2.0  # frames a second that are measured
    flow: str = "dis"  # or "raft", with its weights
    aesthetic: str = "handmade"  # or "laion", with its weights, or MODULE:FUNCTION
    weights: str = ""  # folder of the metric networks' weights, for raft and laion


@dataclasses.dataclass(frozen=True)
class Takes:
    least_seconds: float = 5.0
    most_seconds: float = 60.0  # longer ones are split
    trim: float = 0.25  # seconds left out on both sides of a cut


@dataclasses.dataclass(frozen=True)
class Duplicates:
    most_bits: int = 6  # of 64 in which perceptual hashes of the same picture may differ
    share: float = 0.8  # of a take's pictures that must be another's


@dataclasses.dataclass(frozen=True)
class Motion:
    """Flow lengths are pixels per half second in a picture whose shorter side is 480."""

    least: float = 0.5
    most: float = 200.0
    camera: float = 0.5  # of the flow that one movement of the camera explains: from here on it counts as the camera's


@dataclasses.dataclass(frozen=True)
class Quality:
    least_sharpness: float = 10.0  # variance of the Laplacian at a shorter side of 480
    most_letterbox: float = 0.05  # share of the picture that is black bars
    most_text: float = 0.1  # share of the picture that looks like writing
    most_watermark: float = 0.3  # share of a corner's edges that stand still while the camera moves
    least_aesthetic: float = 0.15  # of the scorer; its scale is the scorer's
    most_dark: float = 0.9  # share of frames darker than 10 of 255


@dataclasses.dataclass(frozen=True)
class Chunks:
    least: int = 2  # chunks that a take must have: those of an example
    keyframes: int = 3  # of a chunk, evenly spaced
    keyframe_side: int = 384  # pixels of their shorter side


@dataclasses.dataclass(frozen=True)
class Captions:
    """Captions come from a file, from an endpoint, or are waited for."""

    file: str = ""  # JSON Lines of {"id", "caption"}
    endpoint: str = ""  # an OpenAI-compatible server's address, up to and with /v1
    model: str = "auto"  # "auto": the first that the server lists
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key, if any
    video: bool = (
        False  # send a chunk as video_url instead of keyframes: servers such as vLLM take it
    )
    align: bool = True  # a second pass over all captions of a take
    concurrency: int = 8  # takes at a time
    retries: int = 5
    timeout: float = 120.0  # seconds of a request
    most_tokens: int = 512  # of a caption
    input_price: float = 0.0  # of a million tokens, for the report
    output_price: float = 0.0


@dataclasses.dataclass(frozen=True)
class Review:
    reviewers: int = 0  # verdicts that a chunk needs; 0: what nobody has looked at passes
    reject: str = "any"  # or "majority": whose rejection counts


@dataclasses.dataclass(frozen=True)
class Settings:
    """All sections; raises `UserError` for values that make no sense."""

    scenes: Scenes = Scenes()
    takes: Takes = Takes()
    duplicates: Duplicates = Duplicates()
    motion: Motion = Motion()
    quality: Quality = Quality()
    chunks: Chunks = Chunks()
    captions: Captions = Captions()
    review: Review = Review()

    def __post_init__(self):
        for path, low, high in (
            ("scenes.samples", 0.1, 30), ("scenes.least_frames", 1, 10_000), ("takes.least_seconds", 0, 86_400),
            ("takes.most_seconds", self.takes.least_seconds, 86_400), ("takes.trim", 0, 10),
            ("duplicates.most_bits", 0, 15), ("duplicates.share", 0.01, 1), ("chunks.least", 1, 10_000),
            ("chunks.keyframes", 1, 32), ("chunks.keyframe_side", 16, 2160), ("captions.concurrency", 1, 256),
            ("captions.retries", 0, 20), ("captions.timeout", 0.1, 3600), ("captions.most_tokens", 1, 100_000),
            ("review.reviewers", 0, 100),
        ):  # fmt: skip
            section, name = path.split(".")
            value = getattr(getattr(self, section), name)
            if not low <= value <= high:
                raise UserError(f"{path} is {value:g}; it can be {low:g} to {high:g}")
        for path, legal in (
            ("scenes.flow", ("dis", "raft")),
            ("review.reject", ("any", "majority")),
        ):
            section, name = path.split(".")
            value = getattr(getattr(self, section), name)
            if value not in legal:
                raise UserError(f"{path} is {value!r}; it can be {' or '.join(legal)}")


def settings_of(content: dict[str, Any]) -> Settings:
    """The settings in decoded JSON, of which any may be left out; raises `UserError` for unknown keys."""
    return from_dict(Settings, content)
