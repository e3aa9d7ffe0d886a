"""LV-Bench's random 8:2 split (section 4), as lists in split.json.

The published lists are not public.  Whoever has them writes them there; otherwise they are drawn.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bvjax.errors import UserError
from bvjax.files import write_json
from bvjax.lvbench.dataset.files import gather, load, name_key

SPLIT_FILE = "split.json"
SPLITS = ("train", "test")


def split(names: Iterable[str], seed: int = 0) -> dict[str, list[str]]:
    """{"train": [...], "test": [...]}: 8:2 at random, each sorted; two names or more have a test.

    The order is that of SHA-256 of "SEED/NAME", so lists are the same under every library, and a
    name that is added moves few others.
    """
    order = sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    test = max(round(len(order) / 5), 1) if len(order) > 1 else 0
    return {"train": sorted(order[test:]), "test": sorted(order[:test])}


def stored_split(folder: pathlib.Path, seed: int = 0) -> dict[str, list[str]]:
    """The lists in the folder's split.json, which is written first where there is none.

    Raises:
        UserError: the lists disagree with the videos or with each other, or cannot be written.
    """
    path, names = pathlib.Path(folder) / SPLIT_FILE, set(gather(pathlib.Path(folder)).videos)
    content = load_split(path.parent)
    if content is None:
        content = {"seed": seed, **split(names, seed)}
        try:
            write_json(path, content)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    for problem in split_problems(content, names):
        raise UserError(f"{path}: {problem}")
    return {side: [name_key(name) for name in content[side]] for side in SPLITS}


def load_split(folder: pathlib.Path) -> Any:
    """Returns the content of split.json; None without one, a sentence where it cannot be read."""
    path = pathlib.Path(folder) / SPLIT_FILE
    if not path.is_file():
        return None
    try:
        return load(path)
    except UserError as error:
        return f"cannot be read: {error}"


def split_problems(content: Any, names: set[str]) -> Iterator[str]:
    """Yields the problems of a split from `load_split`, for a folder with videos of these names."""
    if content is None:
        return
    if isinstance(content, str):
        yield content
        return
    sides = [content.get(side) for side in SPLITS] if isinstance(content, Mapping) else [None]
    if not all(isinstance(s, list) and all(isinstance(n, str) for n in s) for s in sides):
        yield 'must be {"seed": 0, "train": [NAME, ...], "test": [NAME, ...]}'
        return
    train, test = ([name_key(name) for name in side] for side in sides)
    for side, names_of_side in zip(SPLITS, (train, test), strict=True):
        for name in sorted({name for name in names_of_side if names_of_side.count(name) > 1}):
            yield f"{name} is twice in {side}"
    for name in sorted(set(train) & set(test)):
        yield f"{name} is in train and in test"
    for name in sorted((set(train) | set(test)) - names):
        yield f"{name} is listed, but there is no such video"
    for name in sorted(names - set(train) - set(test)):
        yield f"{name} is in neither list"
