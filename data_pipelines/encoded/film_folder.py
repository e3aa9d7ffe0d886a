"""The films of a folder with captions beside them, and the side of the split that each is on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bvjax.chunking import ChunkGrid
from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import write_json
from bvjax.lvbench.dataset.files import gather, name_key
from bvjax.lvbench.dataset.split import SPLIT_FILE, SPLITS, load_split, split, split_problems
from bvjax.story import parse_story
from data_pipelines.encoded.film import Film
from data_pipelines.encoded.windows import Take


def read_films(
    folder: Path, model: ModelConfig, root: Path, seed: int = 0
) -> tuple[list[Film], dict[str, str]]:
    """The films of a folder with captions beside them, and {film or file: sentence} of what cannot be used.

    Args:
        folder: of films.
        model: whose chunks they are cut into.
        root: of the shards; its split.json is made or added to.
        seed: of the split, where `folder` has none.

    Raises:
        UserError: there is no film, or a split.json is not one of these films.
    """
    contents = gather(folder)
    problems = {problem.location: problem.message for problem in contents.problems}
    stories = {}
    for name in contents.videos:
        entry = contents.entries.get(name)
        if entry is None:
            problems[name] = "it has no captions"
            continue
        try:
            story = parse_story(entry.content, entry.location)
            if story.spans is None:
                raise UserError('its captions have no times, such as "(00s - 03s)."')
            stories[name] = story
        except UserError as error:
            problems[name] = str(error)
    for name, entry in contents.entries.items():
        if name not in contents.videos:
            problems[entry.location] = f"there is no video {entry.name}"
    sides = sides_of(folder, root, contents.videos, seed)
    seconds = ChunkGrid.of(model).seconds_per_chunk
    films = [
        Film(name, contents.videos[name], (Take(0, story.chunk_captions(seconds)),), sides[name])
        for name, story in stories.items()
    ]
    return films, problems


def sides_of(
    folder: Path | None,
    root: Path,
    names: Iterable[str],
    seed: int,
    every: Iterable[str] | None = None,
) -> dict[str, str]:
    """The split of each film: the folder's split.json if it has one, else that of `root`, to which new films are added.

    Either way it is in `root` afterwards.

    Args:
        folder: of films.
        root: of the shards.
        names: of the films.
        seed: of the split, where the folder has none.
        every: all films of the folder, which its split.json is about; `names` where it is None.

    Raises:
        UserError: one of these is no split of these films.
    """
    names = set(names)
    given = None if folder is None else given_split(folder, names if every is None else every)
    if given is not None:
        sides = {name: given[name_key(name)] for name in names}
        lists = {side: sorted(n for n in names if sides[n] == side) for side in SPLITS}
        _write_split(root, lists)
        return sides
    kept = load_split(root)
    lists = {side: [] for side in SPLITS} if kept is None else kept
    known = set()
    if kept is not None:
        known = {n for side in SPLITS for n in _names(kept, side, root)}
    new = split(names - known, seed)
    lists = {side: sorted({*_names(lists, side, root), *new[side]}) for side in SPLITS}
    if names - known:
        _write_split(root, {"seed": seed, **lists})
    return {name: side for side in SPLITS for name in lists[side]}


def given_split(folder: Path, names: Iterable[str]) -> dict[str, str] | None:
    """{name without suffix: side} of the folder's split.json; None without one.

    Raises:
        UserError: it is no split of these films.
    """
    given = load_split(folder)
    if given is None:
        return None
    for problem in split_problems(given, {name_key(name) for name in names}):
        raise UserError(f"{folder / SPLIT_FILE}: {problem}")
    return {name_key(name): side for side in SPLITS for name in given[side]}


def _write_split(root: Path, content: dict[str, Any]) -> None:
    if load_split(root) != content:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / SPLIT_FILE, content)


def _names(content: Any, side: str, root: Path) -> list[str]:
    names = content.get(side) if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{root / SPLIT_FILE} is not a split")
    return names
