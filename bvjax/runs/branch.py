"""Branches: a new run folder that has the first chunks of another one, and goes on in its own way.

The chunks that both have are one file on the disk where the file system has hard links, a copy elsewhere:
latents are never changed in place, so neither run can touch the other's past.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Sequence

from bvjax.errors import UserError
from bvjax.files import cannot_write, read_json_object, write_json
from bvjax.generate.checks import check_model
from bvjax.loading.bundle import Bundle
from bvjax.plain_text import whole_text
from bvjax.runs import latent_files
from bvjax.runs.fit import check_weights
from bvjax.runs.place import BRANCH, PREFIX_VIDEO, check_place
from bvjax.runs.redo import check_captions, check_order
from bvjax.runs.requests import check_seed
from bvjax.runs.run_dir import RunDir
from bvjax.runs.run_settings import as_json
from bvjax.runs.strengths import Strengths, switched


@dataclasses.dataclass(frozen=True)
class Origin:
    """The run that a branch comes from, and the chunk at which they part."""

    run: str  # name of the folder beside it
    from_chunk: int  # the first chunk that is its own


def branch(
    run: RunDir,
    bundle: Bundle,
    path: str | pathlib.Path,
    from_chunk: int,
    captions: Sequence[str],
    seed: int | None = None,
    title: str | None = None,
    strengths: Strengths | None = None,
) -> RunDir:
    """Makes a run folder that shares chunks 1 to `from_chunk` - 1 with `run`, which stays as it is.

    Args:
        path: the new folder.
        captions: of the chunks from `from_chunk` on, as many as the branch is to have of its own.
        seed: of these chunks; None leaves the run's.
        title: None leaves the run's.
        strengths: of the LoRAs of `bundle` for these chunks, one for each; those that it has behind the run's own
            are off before. None leaves the run's.

    Raises `UserError` for a chunk that is not made yet, a caption, seed or place that does not fit.
    """
    check_weights(run, bundle, further=strengths is not None)
    path, count = pathlib.Path(path), from_chunk - 1 + len(captions)
    check_order(run, from_chunk, len(run.captions) + 1)
    if not captions:
        raise UserError("the branch has no caption of its own; give it one or more")
    check_captions(run, bundle, dict(enumerate(captions, start=from_chunk)))
    check_model(run.settings.model, count)
    settings = run.settings
    from_id = 0 if from_chunk == 1 and run.image() is None else run.grid.id_of(from_chunk)
    if seed is not None:
        check_seed(seed)
        settings = settings.rerolled(from_id, seed)
    if strengths is not None:
        settings = switched(settings, bundle, from_id, strengths)
    settings = settings.limited(count)
    shared = [i for i in run.latent_ids() if i < from_id]
    if len(run.load_latents(shared, tidy=False)) < len(shared):
        raise UserError(
            f"chunks 1 to {from_chunk - 1} of {run.path} are not all made; a branch begins after one that is"
        )
    check_place(path, settings, count)
    story = {
        "title": run.title if title is None else whole_text(title, "the title"),
        "captions": [*run.captions[: from_chunk - 1], *captions],
    }
    try:
        (path / "latents").mkdir(parents=True, exist_ok=True)
        for chunk_id in shared:
            file = latent_files.file_of(run.path, chunk_id)
            for source in (file, file.with_suffix(".json")):
                _share(source, path / "latents" / source.name)
        for name in ("image.png", PREFIX_VIDEO):
            if (run.path / name).exists():
                _share(run.path / name, path / name)
        write_json(path / BRANCH, dataclasses.asdict(Origin(run.path.name, from_chunk)))
        write_json(path / "story.json", story)
        write_json(path / "config.json", as_json(settings))  # last: it makes the folder a run
        for name in ("conditions.npz", "versions.json"):  # what of them fits is used
            if (run.path / name).exists():
                _share(run.path / name, path / name)
    except OSError as error:
        raise cannot_write(path, error) from None
    return RunDir.open(path)


def origin_of(path: pathlib.Path) -> Origin | None:
    """The origin of the run in a folder; None for one that is no branch, or does not say it soundly."""
    try:
        stored = read_json_object(path / BRANCH)
    except UserError:
        return None
    name, first = stored.get("run"), stored.get("from_chunk")
    if not isinstance(name, str) or name != os.path.basename(name) or not 0 < len(name) <= 255:
        return None
    if not isinstance(first, int) or isinstance(first, bool) or first < 1:
        return None
    return Origin(name, first)


def _share(source: pathlib.Path, target: pathlib.Path) -> None:
    """The file under another name, one on the disk where that can be."""
    target.unlink(missing_ok=True)  # of an attempt that was stopped
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
