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


def sides_of(folder: Path | None, root: Path, names: Iterable[str], seed: int) -> dict[str, str]:
    """The split of each film: the folder's split.json if it has one, else that of `root`, to which new films are added.

    Raises:
        UserError: one of these is no split of these films.
    """
    names = set(names)
    given = None if folder is None else load_split(folder)
    if folder is not None and given is not None:
        for problem in split_problems(given, names):
            raise UserError(f"{folder / SPLIT_FILE}: {problem}")
        return {name_key(name): side for side in SPLITS for name in given[side]}
    kept = load_split(root)
    lists = {side: [] for side in SPLITS} if kept is None else kept
    known = set()
    if kept is not None:
        known = {n for side in SPLITS for n in _names(kept, side, root)}
    new = split(names - known, seed)
    lists = {side: sorted({*_names(lists, side, root), *new[side]}) for side in SPLITS}
    if names - known:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / SPLIT_FILE, {"seed": seed, **lists})
    return {name: side for side in SPLITS for name in lists[side]}


def _names(content: Any, side: str, root: Path) -> list[str]:
    names = content.get(side) if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{root / SPLIT_FILE} is not a split")
    return names
