"""Making what a run still lacks: chunk by chunk to latents, frames, the video and the report."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Generator, Iterator

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, UInt8

from bvjax.denoiser.types import ChunkReport
from bvjax.denoiser.watch import Watch
from bvjax.distributed import exchange
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.finite import is_finite
from bvjax.generate import decoding
from bvjax.generate.rollout import Piece, stream
from bvjax.loading.bundle import Bundle
from bvjax.media import video_io
from bvjax.placement import check_memory
from bvjax.runs.captions import run_conditions
from bvjax.runs.coming import Coming, telling
from bvjax.runs.finished import check_chunk, chunk_name, finished_chunks, not_finite
from bvjax.runs.fit import check_weights, compare_versions
from bvjax.runs.prefix import Encoding, encode_prefix
from bvjax.runs.report.drift_report import ChunkDrift
from bvjax.runs.report.run_report import RunReport
from bvjax.runs.run_dir import RunDir


@dataclasses.dataclass(frozen=True)
class Progress:
    """One finished chunk (0: the anchor), with the seconds that passed for it.

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
    # Measures of the chunk, which wait for the device; None for a first frame, and where nothing is reported.
    drift: Callable[[], ChunkDrift] | None = None


def is_finished(run: RunDir) -> bool:
    """Returns True if nothing is left to do: all latents are intact, the video is whole and reported."""
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


def execute(
    run: RunDir,
    bundle: Bundle,
    *,
    only_report: bool = False,
    only_chunks: bool = False,
    watch: Watch | None = None,
) -> Iterator[Progress | Encoding]:
    """Makes what a run still lacks: latents, video, report.  Yields after every chunk.

    Before the chunks, a video that was given is encoded: an `Encoding` after every latent frame.

    Chunks on disk are put back into the bank, so the video goes on exactly as if it had never
    stopped.  With `only_report` nothing new is generated and the video is left alone; with
    `only_chunks` video and report are.  `watch` is told of each step.

    Between two chunks captions to come may be rewritten (`redo.rewrite_coming`): the run goes on with
    them.  Where it cannot, because a chunk in the making is changed or the policy decided too early
    (`script.is_revisable`), it ends without a report before all chunks are there, and is to be
    executed again.

    Raises:
        UserError: the weights are not those the run began with; the memory is larger than the
            device's; a chunk on disk is not finite; `only_report` and there is no chunk.
        WorkError: a part of a chunk is not finite; nothing of it is saved.
    """
    check_weights(run, bundle)
    compare_versions(run)
    settings = run.settings
    model = settings.model
    if not only_report:
        check_memory(model, bundle.layout)
    started = time.perf_counter()
    # What is refused in the folder is refused before anything is written there.
    image, stored = run.image(), run.load_latents(run.latent_ids(), tidy=False)
    count = finished_chunks(run.path, run.grid, stored) if only_report else None
    if only_report and list(stored) != sorted(stored) and len(stored) < len(run.latent_ids()):
        raise UserError(
            f"policy {model.policy.name} makes the last chunks first: there is a report when all are there"
        )
    conditions, new = run_conditions(run, bundle, run.captions)
    if new:
        run.save_conditions(conditions)
    image_latent = None
    if image is not None:
        image_latent = decoding.encode_image(bundle.params["vae"], model, image, bundle.layout)
        if not is_finite(image_latent):
            raise not_finite("the first image", "latents", "vae", model)
    if not only_report:
        yield from encode_prefix(run, bundle.params["vae"], bundle.layout)
    done = stored if only_report else run.load_latents(run.latent_ids())
    if only_report:
        conditions = dataclasses.replace(
            conditions, text=conditions.text[:count], embedding=conditions.embedding[:count]
        )
    coming, story = Coming(run, bundle), telling(run, conditions)
    pieces = stream(
        lambda chunk_id: bundle.dit(run.settings.strengths_of(chunk_id)),
        model,
        conditions,
        jax.random.key(settings.seed),
        image_latent=image_latent,
        done=done,
        vae_params=bundle.params["vae"],
        layout=bundle.layout,
        rerolls=story.rerolls,
        given=settings.video_chunks,
        watch=watch,
        cuts=story.cuts,
        revised=coming.take,
    )
    pieces = _in_time(run, pieces)
    report = None if only_chunks else RunReport(run)
    # On a CPU a program that calls back keeps whoever asks for it waiting until it is done.
    ahead = watch is None or jax.default_backend() != "cpu"
    seconds = {"text": time.perf_counter() - started}
    with contextlib.ExitStack() as inside:
        writer = None
        if not (only_report or only_chunks):
            (run.path / "report.json").unlink(missing_ok=True)  # until the video is whole again
            writer = video_io.VideoWriter(run.video, model.chunk.fps, settings.scale)
            inside.enter_context(writer)
        whole = yield from _follow(run, bundle, pieces, report, writer, seconds, coming, ahead)
    if whole and report is not None:
        report.save()


def _in_time(run: RunDir, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Pieces in order of time; one that comes before its time is saved at once, and waits."""
    waiting: dict[int, Piece] = {}
    following = itertools.count(run.grid.piece_ids[0])
    due = next(following)
    for piece in pieces:
        if piece.chunk_id != due:
            latents, number = np.asarray(piece.latents), run.number_of(piece.chunk_id)
            if piece.fresh:
                run.save_latents(piece.chunk_id, latents)
            logging.info("%s is made; it is shown when all before it are", chunk_name(number))
            waiting[piece.chunk_id] = piece
            continue
        yield piece
        while (due := next(following)) in waiting:
            yield waiting.pop(due)


def _follow(
    run: RunDir,
    bundle: Bundle,
    pieces: Iterator[Piece],
    report: RunReport | None,
    writer: video_io.VideoWriter | None,
    seconds: dict[str, float],
    coming: Coming,
    ahead: bool = True,
) -> Generator[Progress, None, bool]:
    """Decodes, checks, saves, writes and measures each piece as it comes; returns whether it came to the end.

    A piece is saved, and so is done, when its frames are there and all of it is finite.  With `ahead`
    the next chunk is asked for before that, so that the device never waits for the disk, the video or
    the report.

    Raises `WorkError` for a piece that is not finite.
    """
    model, state, params = run.settings.model, None, bundle.params["vae"]
    started, dispatch_seconds = time.perf_counter(), 0.0
    piece = next(pieces, None)
    while piece is not None:
        state, frames = decoding.decode_piece(params, model, state, piece.latents, bundle.layout)
        latents = exchange.on_host(piece.latents)  # waits for them
        finite = state.finite
        clock = [time.perf_counter()]
        seconds["generate"] = clock[0] - started + dispatch_seconds
        # Asks for the next chunk, does not wait for it.
        next_piece = next(pieces, None) if ahead else None
        clock.append(time.perf_counter())
        pictures = exchange.on_host(frames)  # waits for them
        if jax.process_count() > 1:
            piece = dataclasses.replace(piece, report=exchange.on_host(piece.report))
            finite = exchange.on_host(finite)
        clock.append(time.perf_counter())
        number = run.number_of(piece.chunk_id)
        check_chunk(model, number, latents, piece.report, bool(finite))
        if piece.fresh:
            run.save_latents(piece.chunk_id, latents)
        if writer is not None:
            writer.write(pictures)
        clock.append(time.perf_counter())
        dispatch_seconds, seconds["decode"], seconds["write"] = np.diff(clock).tolist()
        if report is not None:
            report.add(number, pictures, piece.report, seconds)
        drift = None if report is None else report.drift.get(number)
        yield Progress(number, piece.fresh, seconds, pictures, latents, piece.report, drift)
        seconds, started = {}, time.perf_counter()
        if coming.is_changed:  # while the caller had the chunk
            if number == len(run.captions) and coming.fits(number):
                return True
            begun = number if next_piece is None else run.number_of(next_piece.chunk_id)
            if not coming.fits(begun):
                return False
        piece = next_piece if ahead else next(pieces, None)
    return not coming.is_changed
