"""Chunks of a run taken out again, with other captions or another seed; other captions for chunks to come."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from absl import logging

from bvjax.errors import UserError
from bvjax.generate.checks import check_model
from bvjax.generate.conditions import check_lengths
from bvjax.loading.bundle import Bundle
from bvjax.plain_text import is_blank, whole_text
from bvjax.policies import check_cuts
from bvjax.runs import latent_files
from bvjax.runs.captions import run_conditions
from bvjax.runs.fit import check_weights
from bvjax.runs.place import check_space, required_bytes
from bvjax.runs.requests import check_seed
from bvjax.runs.run_dir import RunDir
from bvjax.runs.run_settings import Settings
from bvjax.runs.strengths import Strengths, switched


def redo(
    run: RunDir,
    bundle: Bundle,
    from_chunk: int,
    edits: Mapping[int, str],
    seed: int | None = None,
    strengths: Strengths | None = None,
    cuts: Mapping[int, bool] | None = None,
) -> RunDir:
    """Takes chunks from number `from_chunk` on out of a run, for `execute` to make them again.

    Chunks before it stay as they are, bit-exact; those after it go to the run's archive.  From
    chunk 1 on the first frame is made again too, unless it is an image.

    Args:
        edits: new captions by chunk number.
        seed: of the chunks that are made again; None leaves theirs, so that without an edit the
            same chunks are made.
        strengths: of the LoRAs of `bundle` for these chunks, one for each; those that it has behind the run's own
            are off before. None leaves theirs.
        cuts: by chunk number whether the chunk begins a shot; others stay as they are.

    Raises `UserError` for a number, a caption or a cut that does not fit, and for damaged weights, pictures
    or text states; then nothing is changed.
    """
    check_weights(run, bundle, further=strengths is not None)
    _check_redo(run, bundle, from_chunk, edits)
    if seed is not None:
        check_seed(seed)
    settings = run.settings
    from_id = run.grid.id_of(from_chunk)
    if run.image() is None and from_chunk == 1:
        from_id = 0
    if seed is not None:
        settings = settings.rerolled(from_id, seed)
    if strengths is not None:
        settings = switched(settings, bundle, from_id, strengths)
    if cuts:
        settings = _with_cuts(run, settings, from_chunk, cuts)
    run.check_latents(range(from_id))
    check_space(run.path, required_bytes(run.settings, run.grid))
    captions = [edits.get(n, caption) for n, caption in enumerate(run.captions, start=1)]
    conditions, _ = run_conditions(run, bundle, captions)
    for part in ("vae", "dit"):
        bundle.params[part]  # damaged weights, too, are found while nothing is changed
    unchanged = {1: "nothing stays", 2: "chunk 1 stays as it is"}.get(
        from_chunk, f"chunks 1 to {from_chunk - 1} stay as they are"
    )
    changed = f"chunks {from_chunk} to {len(captions)} are"
    changed = changed if from_chunk < len(captions) else f"chunk {from_chunk} is"
    logging.info("%s, %s made again", unchanged, changed)
    same_seed = seed in (None, run.settings.seed_of(from_id))
    same_loras = strengths is None or settings.strengths_of(from_id) == run.settings.strengths_of(
        from_id
    )
    same_cuts = settings.cuts == run.settings.cuts
    if tuple(captions) == run.captions and same_seed and same_loras and same_cuts:
        logging.warning(
            "neither a caption nor the seed is another: the same chunks are made again; "
            "another seed makes others"
        )
    reopened = run.replace_captions(captions, from_id, settings)
    reopened.save_conditions(conditions)
    return reopened


def _with_cuts(
    run: RunDir, settings: Settings, from_chunk: int, cuts: Mapping[int, bool]
) -> Settings:
    """Settings in which chunks begin shots or do not; raises `UserError` for one that stays, or cannot begin one."""
    first, count = max(from_chunk, 2), len(run.captions)
    for number in cuts:
        if not first <= number <= count:
            raise UserError(
                f"whether chunk {number} begins a shot cannot be changed when making again from {from_chunk} on; "
                + (f"it can be {first} to {count}" if first <= count else "chunk 1 always does")
            )
    kept = {number for number in settings.cuts if number not in cuts}
    new = tuple(sorted(kept | {number for number, begins in cuts.items() if begins}))
    check_cuts(settings.model, new)
    return dataclasses.replace(settings, cuts=new)


def rewrite_coming(run: RunDir, bundle: Bundle, captions: Sequence[str]) -> None:
    """Gives the chunks of a run that are not made yet other captions, more of them or fewer.

    Args:
        captions: of all chunks; those of chunks that are made must be as they are.

    Raises `UserError` for a caption that does not fit, or of a chunk that is there; then nothing is
    changed.
    """
    check_weights(run, bundle)
    first = _first_coming(run)
    if len(captions) < max(first - 1, 1):
        raise UserError(f"the story has {len(captions)} captions; {first - 1} chunks are made")
    for number, (old, new) in enumerate(zip(run.captions, captions[: first - 1], strict=False), 1):
        if old != new:
            raise UserError(
                f"caption {number} cannot be edited, its chunk is made; it can be {first} or later"
            )
    coming = dict(enumerate(captions[first - 1 :], start=first))
    check_captions(run, bundle, coming)
    check_model(run.settings.model, len(captions))
    run.rewrite_story(captions)


def switch_coming(run: RunDir, bundle: Bundle, from_chunk: int, strengths: Strengths) -> None:
    """Gives the chunks of a run from number `from_chunk` on, none of which is made yet, other strengths of LoRAs.

    Args:
        strengths: of the LoRAs of `bundle`, one for each; those that it has behind the run's own are off before.

    Raises `UserError` for strengths that do not fit, or a chunk that is there; then nothing is changed.
    """
    check_weights(run, bundle, further=True)
    first, count = _first_coming(run), len(run.captions)
    if not first <= from_chunk <= count:
        raise UserError(
            f"`from_chunk` is {from_chunk}; "
            + (f"it can be {first} to {count}" if first <= count else "all chunks are made")
        )
    from_id = 0 if from_chunk == 1 else run.grid.id_of(from_chunk)
    run.rewrite_story(run.captions, switched(run.settings, bundle, from_id, strengths))


def _first_coming(run: RunDir) -> int:
    """The number of the first chunk of which nothing is made; raises `UserError` where the last ones are made first."""
    made = {run.number_of(latent_files.id_of(path)) for path in latent_files.all_files(run.path)}
    if made and run.image() is None:
        made.add(1)  # the first frame is of caption 1 too
    first = max(*made, run.settings.video_chunks, 0) + 1
    check_order(run, first, len(run.captions) + 1)
    return first


def _check_redo(run: RunDir, bundle: Bundle, from_chunk: int, edits: Mapping[int, str]) -> None:
    """Raises `UserError` for a number or a caption that does not fit the run."""
    count = len(run.captions)
    check_order(run, from_chunk, count)
    for number in edits:
        if not from_chunk <= number <= count:
            raise UserError(
                f"caption {number} cannot be edited when making again from {from_chunk} on; "
                f"it can be {from_chunk} to {count}"
            )
    check_captions(run, bundle, edits)


def check_order(run: RunDir, from_chunk: int, last: int) -> None:
    """Raises `UserError` where the chunks before `from_chunk`, at most `last`, cannot stay while it is made."""
    num_prefix = run.settings.video_chunks
    if not 1 <= from_chunk <= last:
        raise UserError(f"`from_chunk` is {from_chunk}; the run has chunks 1 to {last}")
    if from_chunk <= num_prefix:
        raise UserError(
            f"`from_chunk` is {from_chunk}, but a video gave chunks 1 to {num_prefix}; it can be "
            f"{num_prefix + 1} to {last}"
        )
    order = run.latent_ids()
    if from_chunk > 1 and order != sorted(order):
        raise UserError(
            f"`from_chunk` is {from_chunk}, but policy {run.settings.model.policy.name} makes the last chunks "
            "first and the others after them; it can be 1"
        )


def check_captions(run: RunDir, bundle: Bundle, captions: Mapping[int, str]) -> None:
    """Raises `UserError` for new captions, by chunk number, that are empty or too long."""
    for number, caption in captions.items():
        if is_blank(whole_text(caption, f"the new caption {number}")):
            raise UserError(f"the new caption {number} is empty")
    new = {f"the new caption {number}": caption for number, caption in captions.items()}
    check_lengths(bundle.tokenizer, new, run.settings.model.text)
