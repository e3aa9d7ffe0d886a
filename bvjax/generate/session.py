"""What the commands do: begin, produce (also resume and report), redo and decode a run."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from absl import logging

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.generate import decoding, video_io
from bvjax.generate.bundle import Bundle
from bvjax.generate.checks import check_image, check_model
from bvjax.generate.conditions import (
    Conditions,
    check_lengths,
    conditions_from_cache,
    numbered,
)
from bvjax.generate.prefix import Encoding, encode_given, take
from bvjax.generate.rollout import Piece, stream
from bvjax.generate.run_dir import RunDir, Settings
from bvjax.generate.run_report import RunReport
from bvjax.stages import check_sampler
from bvjax.story import Story
from bvjax.versions import versions

FREE = ("dit.dtype", "dit.remat", "text.dtype")  # weights do not fix these


@dataclasses.dataclass(frozen=True)
class Progress:
    """One finished chunk (0: the guidance frame), with the seconds that passed for it.

    `generate` is from the chunk before to latents on disk, `decode` from there to frames, `write`
    until they are in the video; `text` is what came before the first.  They add up to the run but for
    what the report measures.  The device begins with a chunk while the one before is written, so
    `generate` is what was left to wait for.
    """

    chunk: int
    fresh: bool  # False: it was on disk already
    seconds: dict[str, float]


def begin(
    bundle: Bundle,
    model: ModelConfig,
    story: Story,
    out: str | pathlib.Path,
    *,
    seed: int = 0,
    scale: int | None = None,
    image: str | pathlib.Path | None = None,
    video: str | pathlib.Path | None = None,
    video_chunks: int | None = None,
    chunks: int | None = None,
    overrides: tuple[str, ...] = (),
) -> RunDir:
    """Checks everything a run needs, then makes its folder (or opens the very same run again).

    Args:
        model: the configuration of `bundle` with overrides applied.
        scale: whole factor by which the video is enlarged; None makes it watchable.
        image: the first frame.
        video: its beginning becomes the first chunks, which captions 1, 2, ... describe.
        video_chunks: how many; None takes all that it holds but leaves one to generate.
        chunks: only so many of the story's.

    Raises `UserError` before any work is done.
    """
    chunk = model.chunk
    check_model(model)
    check_sampler(bundle.stage, model.sampler.kind)
    _check_architecture(bundle.model, model)
    captions = story.chunk_captions(chunk.frames / chunk.fps)
    merged = story.merged(chunk.frames / chunk.fps)
    if chunks is not None and not 1 <= chunks <= len(captions):
        raise UserError(f"--chunks is {chunks}; this story has 1 to {len(captions)}")
    captions = captions[:chunks]
    if model.retrieval.kind == "oracle":
        raise UserError("retrieval.kind 'oracle' needs scores that only an evaluation has")
    check_lengths(bundle.tokenizer, numbered(captions), model.text, model.cfg.negative)
    if not 0 <= seed < 2**32:
        raise UserError(f"the seed is {seed}; it must be a whole number from 0 to {2**32 - 1}")
    if scale is None:
        scale = video_io.watchable_scale(chunk.height, chunk.width)
    if scale < 1:
        raise UserError(f"the scale is {scale}; it must be 1 or more")
    picture, prefix = None, None
    if image is not None and video is not None:
        raise UserError("--image and --video are both given; a video begins with one of them")
    if image is not None:
        check_image(model)
        picture = video_io.read_image(image, chunk.height, chunk.width)
    if video is not None:
        prefix = take(video, model, len(captions), video_chunks)
    elif video_chunks is not None:
        raise UserError(f"--video-chunks is {video_chunks}, but there is no --video")
    settings = Settings(
        model=model, seed=seed, scale=scale, weights=str(bundle.folder.absolute()),
        weights_sha256=bundle.sha256, overrides=tuple(overrides),
        video_chunks=prefix.chunks if prefix else 0, video_sha256=prefix.sha256 if prefix else "",
    )  # fmt: skip
    frames = prefix.frames() if prefix else None
    run = RunDir.create(out, settings, captions, story.title, picture, frames)
    if merged:
        logging.info(merged)
    try:
        video_io.check_writer(run.path, chunk.height * scale, chunk.width * scale, chunk.fps)
        if not (run.path / "versions.json").exists():
            run.save_json("versions.json", versions())
    except BaseException:
        run.close()
        raise
    return run


def produce(
    run: RunDir, bundle: Bundle, *, only_report: bool = False
) -> Iterator[Progress | Encoding]:
    """Makes what a run still lacks: latents, video, report.  Yields after every chunk.

    Before the chunks, a video that was given is encoded: an `Encoding` after every latent frame.

    Chunks on disk are put back into the bank, so the video goes on exactly as if it had never
    stopped.  With `only_report` nothing new is generated and the video is left alone.

    Raises:
        UserError: the weights are not those the run began with; `only_report` and there is no
            chunk.
    """
    check_weights(run, bundle)
    _compare_versions(run)
    settings = run.settings
    model = settings.model
    started = time.perf_counter()
    conditions = _conditions(run, bundle)
    image = run.image()
    image_latent = None
    if image is not None:
        image_latent = decoding.encode_image(bundle.params["vae"], model, image, bundle.layout)
    if not only_report:
        yield from encode_given(run, bundle.params["vae"], bundle.layout)
    ids = ([0] if model.chunk.first == "separate" else []) + list(run.grid.chunk_ids)
    done = run.load_latents(ids)
    if only_report:
        count = len(done) - (model.chunk.first == "separate")
        if count < 1:
            raise UserError(f"the run {run.path} has no finished chunk yet; resume it first")
        conditions = conditions.replace(
            text=conditions.text[:count], embedding=conditions.embedding[:count]
        )
    pieces = stream(
        bundle.params["dit"], model, conditions, jax.random.key(settings.seed),
        image_latent=image_latent, done=done, vae_params=bundle.params["vae"],
        layout=bundle.layout,
    )  # fmt: skip
    report = RunReport(run)
    seconds = {"text": time.perf_counter() - started}
    if only_report:
        yield from _follow(run, bundle, pieces, report, None, seconds)
    else:
        (run.path / "report.json").unlink(missing_ok=True)  # until the video is whole again
        with video_io.VideoWriter(run.video, model.chunk.fps, settings.scale) as writer:
            yield from _follow(run, bundle, pieces, report, writer, seconds)
    report.save()


def decode(run: RunDir, bundle: Bundle) -> int:
    """Makes video.mp4 again from the latents on disk; returns its number of frames."""
    check_weights(run, bundle)
    model, state, frames = run.settings.model, None, 0
    ids = ([0] if model.chunk.first == "separate" else []) + list(run.grid.chunk_ids)
    done = run.load_latents(ids)
    if not done:
        raise UserError(f"the run {run.path} has no finished chunk yet; resume it first")
    with video_io.VideoWriter(run.video, model.chunk.fps, run.settings.scale) as writer:
        for latents in done.values():
            state, piece = decoding.decode_piece(
                bundle.params["vae"], model, state, latents, bundle.layout
            )
            writer.write(np.asarray(piece))
            frames += len(piece)
    return frames


def redo(run: RunDir, bundle: Bundle, from_chunk: int, edits: Mapping[int, str]) -> RunDir:
    """Takes chunks from number `from_chunk` on out of a run and edits captions, for `produce`.

    Chunks before it stay as they are, to the bit; those after it go to the run's archive.  From
    chunk 1 on the first frame is made again too, unless it is an image.

    Raises `UserError` for a number or a caption that does not fit; then nothing is changed.
    """
    check_weights(run, bundle)
    count = len(run.captions)
    if not 1 <= from_chunk <= count:
        raise UserError(f"--from-chunk is {from_chunk}; the run has chunks 1 to {count}")
    given = run.settings.video_chunks
    if from_chunk <= given:
        raise UserError(
            f"--from-chunk is {from_chunk}, but a video gave chunks 1 to {given}; it can be "
            f"{given + 1} to {count}"
        )
    for number, caption in edits.items():
        if not from_chunk <= number <= count:
            raise UserError(
                f"caption {number} cannot be edited when making again from {from_chunk} on; "
                f"it can be {from_chunk} to {count}"
            )
        if not caption.strip():
            raise UserError(f"the new caption {number} is empty")
    new = {f"the new caption {number}": caption for number, caption in edits.items()}
    check_lengths(bundle.tokenizer, new, run.settings.model.text)
    from_id = from_chunk - 1 if run.settings.model.chunk.first == "joined" else from_chunk
    if from_chunk == 1 and run.image() is None:
        from_id = 0
    return run.replace_captions(edits, from_id)


def check_weights(run: RunDir, bundle: Bundle) -> None:
    """Raises `UserError` unless `bundle` is what the run began with."""
    if bundle.sha256 != run.settings.weights_sha256:
        raise UserError(
            f"the weights in {bundle.folder} are not those that {run.path} began with "
            f"({run.settings.weights}); give the right folder with --weights"
        )


def _compare_versions(run: RunDir) -> None:
    """Warns when the run began with software that may round differently."""
    path, now = run.path / "versions.json", versions()
    before = read_json_object(path) if path.exists() else {}
    for name in ("jax", "jaxlib", "backend", "device"):
        if before.get(name, now[name]) != now[name]:
            logging.warning(
                "this run began with %s %s and goes on with %s: new chunks may differ in last bits",
                name, before[name], now[name],
            )  # fmt: skip


def _check_architecture(trained: ModelConfig, model: ModelConfig) -> None:
    """Raises `UserError` for an override of something that the weights fix."""
    for section in ("dit", "vae", "text"):
        before, after = getattr(trained, section), getattr(model, section)
        for field in dataclasses.fields(before):
            key, old, new = field.name, getattr(before, field.name), getattr(after, field.name)
            if old != new and f"{section}.{key}" not in FREE:
                raise UserError(
                    f"{section}.{key} is {old!r} in these weights; it cannot be set to {new!r}"
                )


def _conditions(run: RunDir, bundle: Bundle) -> Conditions:
    """Encoded captions; those encoded before are kept to the bit, only new ones are encoded."""
    model = run.settings.model
    check_lengths(bundle.tokenizer, numbered(run.captions), model.text, model.cfg.negative)
    stored = run.load_conditions()
    if stored is not None and stored[0] == run.captions:
        return stored[1]
    known = {} if stored is None else dict(zip(stored[0], stored[1].each(), strict=True))
    null_text = None if stored is None else stored[1].null_text
    new = tuple(dict.fromkeys(caption for caption in run.captions if caption not in known))
    if new:
        config, cache = run.settings.model.text, bundle.text_cache(run.settings.model.text)
        load = lambda: bundle.load_text(config)
        negative = run.settings.model.cfg.negative
        fresh = conditions_from_cache(load, config, bundle.tokenizer, new, cache, negative)
        known |= zip(new, fresh.each(), strict=True)
        null_text = fresh.null_text if null_text is None else null_text
    rows = [known[caption] for caption in run.captions]
    made = Conditions(
        text=np.stack([text for text, _ in rows]),
        embedding=np.stack([embedding for _, embedding in rows]),
        null_text=null_text,
    )
    run.save_conditions(made)
    return made


def _follow(
    run: RunDir,
    bundle: Bundle,
    pieces: Iterator[Piece],
    report: RunReport,
    writer: video_io.VideoWriter | None,
    seconds: dict[str, float],
) -> Iterator[Progress]:
    """Saves, decodes, writes and measures each piece as it comes.

    The next chunk is asked for as soon as the latents of this one are on disk, before its frames are
    there, so that the device never waits for the disk, the video or the report.
    """
    model, state, params = run.settings.model, None, bundle.params["vae"]
    started, asked = time.perf_counter(), 0.0
    piece = next(pieces, None)
    while piece is not None:
        state, frames = decoding.decode_piece(params, model, state, piece.latents, bundle.layout)
        latents = np.asarray(piece.latents)  # waits for them
        if piece.fresh:
            run.save_latents(piece.chunk_id, latents)
        clock = [time.perf_counter()]
        seconds["generate"] = clock[0] - started + asked
        following = next(pieces, None)  # asks for the next chunk, does not wait for it
        clock.append(time.perf_counter())
        frames = np.asarray(frames)  # waits for them
        clock.append(time.perf_counter())
        if writer is not None:
            writer.write(frames)
        clock.append(time.perf_counter())
        asked, seconds["decode"], seconds["write"] = np.diff(clock).tolist()
        number = piece.chunk_id + (model.chunk.first == "joined")
        report.add(number, frames, piece.report, seconds)
        yield Progress(number, piece.fresh, seconds)
        seconds, started = {}, time.perf_counter()
        piece = following
