"""Deleting a run for good: the runs that branch from it keep all that they have, and what nobody has any more goes."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile

from bvjax.errors import UserError
from bvjax.files import cannot_write, write_json
from bvjax.plain_text import listed
from bvjax.runs.branch import Origin
from bvjax.runs.place import BRANCH
from bvjax.runs.run_dir import RunDir
from bvjax.studio.versions import HIDDEN, Version, Versions


def branches_of(versions: Versions, name: str) -> list[Version]:
    """The runs that share their past with `name` because they branch from it."""
    return [found for found in versions.all() if found.origin and found.origin.run == name]


def check_delete(versions: Versions, name: str, keep_branches: bool) -> None:
    """Raises `UserError` where others branch from a run, unless it is known that they stay."""
    branches = branches_of(versions, name)
    if branches and not keep_branches:
        raise UserError(
            f"{listed(branch.name for branch in branches)} branch from {name} and share its chunks; they stay whole, "
            "with files of their own, when keep_branches is true"
        )


def delete(versions: Versions, run: RunDir, keep_branches: bool) -> None:
    """Deletes a run of `versions`, which is open.

    Its branches have names of their own for each file that they share (or copies, where there are no hard links), so
    nothing is taken from them; they are branches of what it came from, if it came from something.

    Raises `UserError` as `check_delete`, and where something cannot be written; the run is whole then.
    """
    name = run.path.name
    check_delete(versions, name, keep_branches)
    version = versions.find(name)
    keys = set(versions.store.keys(version.path, version.settings, version.grid).values())
    waste = versions.root / HIDDEN / "deleted"
    try:
        waste.mkdir(parents=True, exist_ok=True)
        for branch in branches_of(versions, name):
            _adopt(branch, version.origin)
            versions.forget(branch.name)
        # In one step, so that half a run is never among the others.
        gone = pathlib.Path(tempfile.mkdtemp(dir=waste)) / "run"
        run.path.rename(gone)
    except OSError as error:
        raise cannot_write(run.path, error) from None
    versions.forget(name)
    shutil.rmtree(waste, ignore_errors=True)  # links in it are not followed
    for other in versions.all():
        keys -= set(versions.store.keys(other.path, other.settings, other.grid).values())
    versions.store.drop(keys)


def _adopt(branch: Version, origin: Origin | None) -> None:
    """Makes a branch one of what its origin came from: they share what all three have."""
    assert branch.origin is not None
    if origin is None:
        (branch.path / BRANCH).unlink()
        return
    first = min(origin.from_chunk, branch.origin.from_chunk)
    write_json(branch.path / BRANCH, dataclasses.asdict(Origin(origin.run, first)))
