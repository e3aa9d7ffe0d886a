"""Beginning a run: everything it needs is checked, then its folder is made."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from absl import logging

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.generate.checks import check_image, check_model
from bvjax.generate.conditions import check_lengths, numbered
from bvjax.loading.bundle import Bundle
from bvjax.media import video_io
from bvjax.memory import rules
from bvjax.overrides import apply_overrides
from bvjax.placement import check_memory
from bvjax.policies import check_cuts
from bvjax.runs.fit import check_fit
from bvjax.runs.place import check_place
from bvjax.runs.prefix import take
from bvjax.runs.requests import Image, check_seed
from bvjax.runs.run_dir import RunDir
from bvjax.runs.run_settings import Settings, weights_place
from bvjax.runs.strengths import first_strengths
from bvjax.stages import memory_warning
from bvjax.story import Story
from bvjax.versions import versions


def create_run(
    bundle: Bundle,
    model: ModelConfig,
    story: Story,
    out: str | pathlib.Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    scale: int | None = None,
    image: Image | None = None,
    video: str | pathlib.Path | None = None,
    video_chunks: int | None = None,
    video_part: str | None = None,
    chunks: int | None = None,
    lora_at: Mapping[int, float | Sequence[float]] | None = None,
    overrides: tuple[str, ...] = (),
) -> RunDir:
    """Checks everything a run needs, then makes its folder (or opens the very same run again).

    Args:
        model: the configuration of `bundle` with `overrides` applied.
        steps: of the solver for a chunk, as one more override; None leaves the configuration's.
        scale: whole factor by which the video is enlarged; None leaves that of a run that is there
            already, and makes a new one watchable.
        image: the first frame.
        video: its end becomes the first chunks, which captions 1, 2, ... describe.
        video_chunks: how many; None takes all that it holds but leaves one to generate.
        video_part: "start" takes its beginning instead; None and "end" its end.
        chunks: only so many of the story's.
        lora_at: by number of a chunk, the strengths of the LoRAs of `bundle` from there on.

    Raises `UserError` before any work is done.
    """
    if steps is not None:
        model, overrides = _with_steps(model, overrides, steps)
    chunk = model.chunk
    check_model(model)
    check_fit(bundle, model)
    check_memory(model, bundle.layout)
    captions = story.chunk_captions(chunk.frames / chunk.fps)
    merged = story.merged(chunk.frames / chunk.fps)
    if chunks is not None and not 1 <= chunks <= len(captions):
        raise UserError(f"`chunks` is {chunks}; this story has 1 to {len(captions)}")
    captions = captions[:chunks]
    cuts = tuple(1 + i for i in story.chunk_cuts(chunk.frames / chunk.fps) if i < len(captions))
    check_cuts(model, cuts)
    check_model(model, len(captions))
    rules.check_generation(model.retrieval.kind)
    check_lengths(bundle.tokenizer, numbered(captions), model.text, model.guidance.negative)
    check_seed(seed)
    existing_scale = RunDir.scale_of(out)
    if scale is None:
        scale = existing_scale or video_io.watchable_scale(chunk.height, chunk.width)
    video_io.check_scale(chunk.height, chunk.width, scale)
    picture, prefix = None, None
    if image is not None and video is not None:
        raise UserError("`image` and `video` are both given; a video begins with one of them")
    if image is not None:
        check_image(model)
        picture = video_io.read_image(image, chunk.height, chunk.width)
    if video is not None:
        prefix = take(video, model, len(captions), video_chunks, video_part or "end")
    for name, value in (("video_chunks", video_chunks), ("video_part", video_part)):
        if video is None and value is not None:
            raise UserError(f"`{name}` is {value}, but there is no `video`")
    settings = Settings(
        model=model,
        seed=seed,
        scale=scale,
        weights=weights_place(bundle.folder),
        weights_sha256=bundle.sha256,
        overrides=tuple(overrides),
        video_chunks=prefix.chunks if prefix else 0,
        video_sha256=prefix.sha256 if prefix else "",
        cuts=cuts,
    )
    settings = first_strengths(settings, bundle, lora_at or {}, ChunkGrid.of(model, len(captions)))
    frames = prefix.frames() if prefix else None
    if existing_scale is None:
        folder = check_place(pathlib.Path(out), settings, len(captions))
        video_io.check_writer(folder, chunk.height * scale, chunk.width * scale, chunk.fps)
    run = RunDir.create(out, settings, captions, story.title, picture, frames)
    if merged:
        logging.info(merged)
    if prefix:
        logging.info(prefix.summary())
    if existing_scale not in (None, scale):
        logging.info(
            "video.mp4 is enlarged %d times from now on, not %d times", scale, existing_scale
        )
    if untrained := memory_warning(bundle.stage, model):
        logging.warning(untrained)
    try:
        if not (run.path / "versions.json").exists():
            run.save_json("versions.json", versions())
    except BaseException:
        run.close()
        raise
    return run


def _with_steps(
    model: ModelConfig, overrides: tuple[str, ...], steps: int
) -> tuple[ModelConfig, tuple[str, ...]]:
    """(model, overrides) with so many steps of the solver."""
    others = [text for text in overrides if text.partition("=")[0].strip() != "sampler.steps"]
    overrides = (*others, f"sampler.steps={steps}")
    return apply_overrides(model, overrides[-1:]), overrides
