"""What the commands do: begin, produce (also resume and report), redo and decode a run."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
import PIL.Image
from absl import logging
from jaxtyping import Float, UInt8

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.finite import is_finite
from bvjax.generate import decoding
from bvjax.generate.checks import check_image, check_model, check_scale, check_seed
from bvjax.generate.conditions import (
    Conditions,
    check_lengths,
    conditions_from_cache,
    numbered,
)
from bvjax.generate.rollout import Piece, stream
from bvjax.generate.steps import ChunkReport
from bvjax.loading.bundle import Bundle
from bvjax.media import video_io
from bvjax.memory import rules
from bvjax.placement import check_memory
from bvjax.plain_text import is_blank, whole_text
from bvjax.runs.finished import check_chunk, check_text_states, not_finite
from bvjax.runs.prefix import Encoding, encode_given, take
from bvjax.runs.report.run_report import RunReport
from bvjax.runs.run_dir import RunDir, check_place, check_space, required_bytes
from bvjax.runs.run_settings import Settings, weights_place
from bvjax.stages import check_sampler, memory_warning
from bvjax.story import Story
from bvjax.versions import versions

FREE = ("dit.dtype", "dit.remat", "text.dtype")  # weights do not fix these


@dataclasses.dataclass(frozen=True)
class Progress:
    """One finished chunk (0: the guidance frame), with the seconds that passed for it.

    `generate` is from the chunk before to latents, `decode` from there to frames, `write` until the
    latents are on disk and the frames in the video; `text` is what came before the first.  They add
    up to the run but for what the report measures.  The device begins with a chunk while the one
    before is written, so `generate` is what was left to wait for.
    """

    chunk: int
    fresh: bool  # False: it was on disk already
    seconds: dict[str, float]
    frames: UInt8[np.ndarray, "f h w 3"]
    latents: Float[np.ndarray, "l h w z"]
    report: ChunkReport | None  # None for a first frame that is not in the bank


def begin(
    bundle: Bundle,
    model: ModelConfig,
    story: Story,
    out: str | pathlib.Path,
    *,
    seed: int = 0,
    scale: int | None = None,
    image: str | pathlib.Path | PIL.Image.Image | np.ndarray | None = None,
    video: str | pathlib.Path | None = None,
    video_chunks: int | None = None,
    video_part: str | None = None,
    chunks: int | None = None,
    overrides: tuple[str, ...] = (),
) -> RunDir:
    """Checks everything a run needs, then makes its folder (or opens the very same run again).

    Args:
        model: the configuration of `bundle` with overrides applied.
        scale: whole factor by which the video is enlarged; None leaves that of a run that is there
            already, and makes a new one watchable.
        image: the first frame.
        video: its end becomes the first chunks, which captions 1, 2, ... describe.
        video_chunks: how many; None takes all that it holds but leaves one to generate.
        video_part: "start" takes its beginning instead; None and "end" its end.
        chunks: only so many of the story's.

    Raises `UserError` before any work is done.
    """
    chunk = model.chunk
    check_model(model)
    _check_fit(bundle, model)
    check_memory(model, bundle.layout)
    captions = story.chunk_captions(chunk.frames / chunk.fps)
    merged = story.merged(chunk.frames / chunk.fps)
    if chunks is not None and not 1 <= chunks <= len(captions):
        raise UserError(f"`chunks` is {chunks}; this story has 1 to {len(captions)}")
    captions = captions[:chunks]
    rules.check_generation(model.retrieval.kind)
    check_lengths(bundle.tokenizer, numbered(captions), model.text, model.cfg.negative)
    check_seed(seed)
    there = RunDir.scale_of(out)
    if scale is None:
        scale = there or video_io.watchable_scale(chunk.height, chunk.width)
    check_scale(chunk, scale)
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
        model=model, seed=seed, scale=scale, weights=weights_place(bundle.folder),
        weights_sha256=bundle.sha256, overrides=tuple(overrides),
        video_chunks=prefix.chunks if prefix else 0, video_sha256=prefix.sha256 if prefix else "",
    )  # fmt: skip
    frames = prefix.frames() if prefix else None
    if there is None:
        folder = check_place(pathlib.Path(out), settings, len(captions))
        video_io.check_writer(folder, chunk.height * scale, chunk.width * scale, chunk.fps)
    run = RunDir.create(out, settings, captions, story.title, picture, frames)
    if merged:
        logging.info(merged)
    if prefix:
        logging.info(prefix.told())
    if there not in (None, scale):
        logging.info("video.mp4 is enlarged %d times from now on, not %d times", scale, there)
    if untrained := memory_warning(bundle.stage, model):
        logging.warning(untrained)
    try:
        if not (run.path / "versions.json").exists():
            run.save_json("versions.json", versions())
    except BaseException:
        run.close()
        raise
    return run


def is_finished(run: RunDir) -> bool:
    """Whether nothing is left to do: all latents are intact, the video is whole and reported."""
    chunk, scale, ids = run.settings.model.chunk, run.settings.scale, run.latent_ids()
    if not (run.path / "report.png").is_file() or not (run.path / "report.json").is_file():
        return False
    try:
        report = read_json_object(run.path / "report.json")
    except UserError:
        return False
    count, size = run.grid.num_frames, (chunk.height * scale, chunk.width * scale)
    return (
        report.get("chunks_done") == len(run.captions)
        and video_io.is_whole(run.video, count, *size)
        and len(run.load_latents(ids, tidy=False)) == len(ids)
    )


def produce(
    run: RunDir, bundle: Bundle, *, only_report: bool = False, only_chunks: bool = False
) -> Iterator[Progress | Encoding]:
    """Makes what a run still lacks: latents, video, report.  Yields after every chunk.

    Before the chunks, a video that was given is encoded: an `Encoding` after every latent frame.

    Chunks on disk are put back into the bank, so the video goes on exactly as if it had never
    stopped.  With `only_report` nothing new is generated and the video is left alone; with
    `only_chunks` video and report are.

    Raises:
        UserError: the weights are not those the run began with; the memory is larger than the
            device's; a chunk on disk is not finite; `only_report` and there is no chunk.
        WorkError: a part of a chunk is not finite; nothing of it is saved.
    """
    check_weights(run, bundle)
    _compare_versions(run)
    settings = run.settings
    model = settings.model
    if not only_report:
        check_memory(model, bundle.layout)
    started = time.perf_counter()
    # What is refused in the folder is refused before anything is written there.
    image, found = run.image(), run.load_latents(run.latent_ids(), tidy=False)
    if only_report and not _finished_chunks(run, found):
        raise UserError(f"the run {run.path} has no finished chunk yet; resume it first")
    conditions, new = _conditions(run, bundle, run.captions)
    if new:
        run.save_conditions(conditions)
    image_latent = None
    if image is not None:
        image_latent = decoding.encode_image(bundle.params["vae"], model, image, bundle.layout)
        if not is_finite(image_latent):
            raise not_finite("the first image", "latents", "vae", model)
    if not only_report:
        yield from encode_given(run, bundle.params["vae"], bundle.layout)
    done = found if only_report else run.load_latents(run.latent_ids())
    if only_report:
        count = _finished_chunks(run, done)
        conditions = conditions.replace(
            text=conditions.text[:count], embedding=conditions.embedding[:count]
        )
    pieces = stream(
        bundle.params["dit"], model, conditions, jax.random.key(settings.seed),
        image_latent=image_latent, done=done, vae_params=bundle.params["vae"],
        layout=bundle.layout,
        rerolls=[(first, jax.random.key(seed)) for first, seed in settings.rerolls],
    )  # fmt: skip
    report = None if only_chunks else RunReport(run)
    seconds = {"text": time.perf_counter() - started}
    if only_report or only_chunks:
        yield from _follow(run, bundle, pieces, report, None, seconds)
    else:
        (run.path / "report.json").unlink(missing_ok=True)  # until the video is whole again
        with video_io.VideoWriter(run.video, model.chunk.fps, settings.scale) as writer:
            yield from _follow(run, bundle, pieces, report, writer, seconds)
    if report is not None:
        report.save()


def decode(run: RunDir, bundle: Bundle) -> int:
    """Makes video.mp4 again from the latents on disk; returns its number of frames."""
    check_weights(run, bundle)
    model, state, frames = run.settings.model, None, 0
    done = run.load_latents(run.latent_ids(), tidy=False)
    if not _finished_chunks(run, done):
        raise UserError(f"the run {run.path} has no finished chunk yet; resume it first")
    made = run.path / f".{run.video.name}.{os.getpid()}.tmp"
    try:
        with video_io.VideoWriter(made, model.chunk.fps, run.settings.scale) as writer:
            for chunk_id, latents in done.items():
                state, piece = decoding.decode_piece(
                    bundle.params["vae"], model, state, latents, bundle.layout
                )
                check_chunk(model, run.number_of(chunk_id), latents, None, bool(state.finite))
                writer.write(np.asarray(piece))
                frames += len(piece)
        os.replace(made, run.video)
    finally:
        made.unlink(missing_ok=True)
    return frames


def redo(
    run: RunDir,
    bundle: Bundle,
    from_chunk: int,
    edits: Mapping[int, str],
    seed: int | None = None,
) -> RunDir:
    """Takes chunks from number `from_chunk` on out of a run, for `produce` to make them again.

    Chunks before it stay as they are, to the bit; those after it go to the run's archive.  From
    chunk 1 on the first frame is made again too, unless it is an image.

    Args:
        edits: new captions by chunk number.
        seed: of the chunks that are made again; None leaves theirs, so that without an edit the
            same chunks are made.

    Raises `UserError` for a number or a caption that does not fit, and for damaged weights, pictures
    or text states; then nothing is changed.
    """
    check_weights(run, bundle)
    _check_redo(run, bundle, from_chunk, edits)
    if seed is not None:
        check_seed(seed)
    from_id = run.grid.id_of(from_chunk)
    if run.image() is None and from_chunk == 1:
        from_id = 0
    run.check_latents(range(from_id))
    check_space(run.path, required_bytes(run.settings, run.grid))
    captions = [edits.get(n, caption) for n, caption in enumerate(run.captions, start=1)]
    conditions, _ = _conditions(run, bundle, captions)
    for part in ("vae", "dit"):
        bundle.params[part]  # damaged weights, too, are found while nothing is changed
    kept = {1: "nothing stays", 2: "chunk 1 stays as it is"}.get(
        from_chunk, f"chunks 1 to {from_chunk - 1} stay as they are"
    )
    made = f"chunks {from_chunk} to {len(captions)} are"
    made = made if from_chunk < len(captions) else f"chunk {from_chunk} is"
    logging.info("%s, %s made again", kept, made)
    if tuple(captions) == run.captions and seed in (None, run.settings.seed_of(from_id)):
        logging.warning(
            "neither a caption nor the seed is another: the same chunks are made again; "
            "another seed makes others"
        )
    again = run.replace_captions(captions, from_id, seed)
    again.save_conditions(conditions)
    return again


def _check_redo(run: RunDir, bundle: Bundle, from_chunk: int, edits: Mapping[int, str]) -> None:
    """Raises `UserError` for a number or a caption that does not fit the run."""
    count, given = len(run.captions), run.settings.video_chunks
    if not 1 <= from_chunk <= count:
        raise UserError(f"`from_chunk` is {from_chunk}; the run has chunks 1 to {count}")
    if from_chunk <= given:
        raise UserError(
            f"`from_chunk` is {from_chunk}, but a video gave chunks 1 to {given}; it can be "
            f"{given + 1} to {count}"
        )
    for number, caption in edits.items():
        if not from_chunk <= number <= count:
            raise UserError(
                f"caption {number} cannot be edited when making again from {from_chunk} on; "
                f"it can be {from_chunk} to {count}"
            )
        if is_blank(whole_text(caption, f"the new caption {number}")):
            raise UserError(f"the new caption {number} is empty")
    new = {f"the new caption {number}": caption for number, caption in edits.items()}
    check_lengths(bundle.tokenizer, new, run.settings.model.text)


def check_weights(run: RunDir, bundle: Bundle) -> None:
    """Raises `UserError` unless `bundle` is what the run began with."""
    if bundle.sha256 != run.settings.weights_sha256:
        raise UserError(
            f"the weights in {bundle.folder} are not those that {run.path} began with "
            f"({run.settings.weights}); give the right folder with `weights`"
        )
    try:
        _check_fit(bundle, run.settings.model)
    except UserError as error:
        raise UserError(f"the run folder {run.path} is damaged: {error}") from None


def _compare_versions(run: RunDir) -> None:
    """Warns when the run began with software that may round differently."""
    path, now = run.path / "versions.json", versions()
    try:
        before = read_json_object(path) if path.exists() else {}
    except UserError as error:
        logging.warning("%s: whether this run began with the same software is not known", error)
        return
    for name in ("jax", "jaxlib", "backend", "device"):
        if before.get(name, now[name]) != now[name]:
            logging.warning(
                "this run began with %s %.100s and goes on with %s: new chunks may differ in last bits",
                name, before[name], now[name],
            )  # fmt: skip


def _check_fit(bundle: Bundle, model: ModelConfig) -> None:
    """Raises `UserError` for a configuration that these weights cannot be used with."""
    check_sampler(bundle.stage, model.sampler.kind)
    _check_architecture(bundle.model, model)


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


def _finished_chunks(run: RunDir, latents: Mapping[int, np.ndarray]) -> int:
    """How many chunks there are among latents, of which those of the guidance frame are none."""
    return sum(chunk_id in run.grid.chunk_ids for chunk_id in latents)


def _conditions(run: RunDir, bundle: Bundle, captions: Sequence[str]) -> tuple[Conditions, bool]:
    """(encoded captions, whether they are others than those on disk).

    Those encoded before are kept to the bit, only new ones are encoded.
    """
    model, captions = run.settings.model, tuple(captions)
    check_lengths(bundle.tokenizer, numbered(captions), model.text, model.cfg.negative)
    stored = run.load_conditions()
    if stored is not None and stored[0] == captions:
        return stored[1], False
    known = {} if stored is None else dict(zip(stored[0], stored[1].each(), strict=True))
    null_text = None if stored is None else stored[1].null_text
    new = tuple(dict.fromkeys(caption for caption in captions if caption not in known))
    if new:
        config, cache = run.settings.model.text, bundle.text_cache(run.settings.model.text)
        load = lambda: bundle.load_text(config)
        negative = run.settings.model.cfg.negative
        fresh = conditions_from_cache(load, config, bundle.tokenizer, new, cache, negative)
        check_text_states(run.settings.model, fresh, [1 + captions.index(c) for c in new])
        known |= zip(new, fresh.each(), strict=True)
        null_text = fresh.null_text if null_text is None else null_text
    rows = [known[caption] for caption in captions]
    made = Conditions(
        text=np.stack([text for text, _ in rows]),
        embedding=np.stack([embedding for _, embedding in rows]),
        null_text=null_text,
    )
    return made, True


def _follow(
    run: RunDir,
    bundle: Bundle,
    pieces: Iterator[Piece],
    report: RunReport | None,
    writer: video_io.VideoWriter | None,
    seconds: dict[str, float],
) -> Iterator[Progress]:
    """Decodes, checks, saves, writes and measures each piece as it comes.

    A piece is saved, and so is done, when its frames are there and all of it is finite.  The next
    chunk is asked for before that, so that the device never waits for the disk, the video or the
    report.

    Raises `WorkError` for a piece that is not finite.
    """
    model, state, params = run.settings.model, None, bundle.params["vae"]
    started, asked = time.perf_counter(), 0.0
    piece = next(pieces, None)
    while piece is not None:
        state, frames = decoding.decode_piece(params, model, state, piece.latents, bundle.layout)
        latents = np.asarray(piece.latents)  # waits for them
        finite = state.finite
        clock = [time.perf_counter()]
        seconds["generate"] = clock[0] - started + asked
        following = next(pieces, None)  # asks for the next chunk, does not wait for it
        clock.append(time.perf_counter())
        pictures = np.asarray(frames)  # waits for them
        clock.append(time.perf_counter())
        number = run.number_of(piece.chunk_id)
        check_chunk(model, number, latents, piece.report, bool(finite))
        if piece.fresh:
            run.save_latents(piece.chunk_id, latents)
        if writer is not None:
            writer.write(pictures)
        clock.append(time.perf_counter())
        asked, seconds["decode"], seconds["write"] = np.diff(clock).tolist()
        if report is not None:
            report.add(number, pictures, piece.report, seconds)
        yield Progress(number, piece.fresh, seconds, pictures, latents, piece.report)
        seconds, started = {}, time.perf_counter()
        piece = following
