"""Scores on disk: a file per (video, metric), so that a killed run loses nothing.

OUT/videos/HASH.json                 a file's content hash and number of frames, while it is unchanged
OUT/scores/CONTENT/METRIC.KEY.json   `Scores`; the key is a hash of all that they depend on
OUT/scores/CONTENT/pictures.N.npz    a small JPEG of the middle of each segment, for the report
OUT/shards/I-of-N.json               a process has done its part; what it could not measure, and why

Several processes may use one folder: files appear whole, and equal keys have equal content.  A file
that cannot be read, or holds something else, is one that is not there: its content is made again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import av
import cv2
import numpy as np
import PIL.Image

from bvjax.array_files import read_npz
from bvjax.errors import UserError
from bvjax.files import npz_bytes, read_json_object, sha256_of, write_atomic, write_json
from bvjax.lvbench.metric import Scores
from bvjax.lvbench.video import Video, name_of, probe, prompt_of, truth_beside

FORMAT = 1  # of the files here; part of every key
# Code that makes scores: the suites, the networks, and modules that serve them all.
MEASURING_FOLDERS = ("nets", "official", "paper")
MEASURING = (
    "batching.py",
    "clarity.py",
    "motion.py",
    "vde.py",
    "video.py",
    "../media/video_frames.py",
)
_METADATA_TYPES = {"sha256": str, "frames": int, "fps": int | float, "height": int, "width": int}
_SCORE_TYPES = {"chunks": list, "whole": int | float | str | None, "weight": int, "reason": str}
_SHA256 = re.compile("[0-9a-f]{64}")  # becomes the name of a folder
_INFINITE = ("inf", "-inf")  # JSON has no such numbers


class Store:
    """The folder of one evaluation."""

    def __init__(self, folder: pathlib.Path):
        self.folder = pathlib.Path(folder)

    def video(self, path: pathlib.Path, root: pathlib.Path) -> Video:
        """`probe`, remembered while the file stays as it is; raises `UserError`."""
        stat = path.stat()
        path_hash = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        state = [FORMAT, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        record = self.folder / "videos" / f"{path_hash}.json"
        stored = _read(record)
        metadata = stored.get("video")
        if (
            stored.get("state") == state
            and _has_types(metadata, _METADATA_TYPES)
            and _SHA256.fullmatch(metadata["sha256"])
        ):
            return Video(
                path=path,
                name=name_of(path, root),
                truth=truth_beside(path),
                prompt=prompt_of(path),
                **metadata,
            )
        video = probe(path, root)
        metadata = dataclasses.asdict(video)
        for name in ("path", "name", "truth", "prompt"):
            metadata.pop(name)
        _write(record, {"state": state, "video": metadata})
        return video

    def check(self) -> None:
        """Makes the folder; raises `UserError` where it cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (probe := self.folder / ".writable").touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"cannot write into {self.folder}: {error.strerror or error}") from None

    def load(self, video: Video, key: Mapping[str, Any]) -> Scores | None:
        """Scores that were saved under an equal key, or None."""
        stored = _read(self._scores_path(video, key))
        scores = stored.get("scores")
        if stored.get("key") != key or not _has_types(scores, _SCORE_TYPES):
            return None
        values = [*scores["chunks"], scores["whole"]]
        if len(values) != key["segments"] + 1 or not all(map(_is_score, values)):
            return None
        *chunks, whole = (float(v) if v in _INFINITE else v for v in values)
        numbers = tuple(math.nan if c is None else c for c in chunks)
        return Scores(numbers, whole, scores["weight"], scores["reason"])

    def save(self, video: Video, key: Mapping[str, Any], scores: Scores) -> None:
        """Stores the scores of a video."""
        content = dataclasses.asdict(scores)
        content["chunks"] = [None if math.isnan(c) else _float_to_json(c) for c in scores.chunks]
        content["whole"] = None if scores.whole is None else _float_to_json(scores.whole)
        _write(self._scores_path(video, key), {"key": key, "scores": content})

    def pictures(self, video: Video, segments: int) -> list[bytes] | None:
        """JPEG files of the middles of the segments, or None."""
        try:
            arrays = read_npz(self._pictures_path(video, segments))
            images = [arrays[f"arr_{i}"] for i in range(segments)]
        except (FileNotFoundError, UserError, KeyError):
            return None
        jpegs = [array.tobytes() for array in images if array.dtype == np.uint8]
        return jpegs if len(jpegs) == segments and all(map(_is_jpeg, jpegs)) else None

    def save_pictures(self, video: Video, pictures: Sequence[bytes]) -> None:
        """Stores the pictures of a video."""
        arrays = {f"arr_{i}": np.frombuffer(p, np.uint8) for i, p in enumerate(pictures)}
        path = self._pictures_path(video, len(pictures))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, npz_bytes(**arrays))

    def start_shard(self, index: int, count: int) -> None:
        """Marks shard `index` of `count` as running."""
        self._shard_path(index, count).unlink(missing_ok=True)

    def finish_shard(self, index: int, count: int, failures: Mapping[str, Sequence[str]]) -> None:
        """Marks a shard as finished; `failures` has sentences for each video with missing scores."""
        _write(self._shard_path(index, count), {"failures": dict(failures)})

    def failures(self, count: int) -> dict[str, list[str]]:
        """Returns the failures of all finished shards, by video."""
        shards = [_read(self._shard_path(index, count)) for index in range(count)]
        failures_of_shards = [shard.get("failures") for shard in shards]
        return {
            name: sentences
            for failures in failures_of_shards
            if isinstance(failures, dict)
            for name, sentences in failures.items()
            if isinstance(sentences, list)
            and all(isinstance(sentence, str) for sentence in sentences)
        }

    def unfinished_shards(self, count: int) -> list[int]:
        """Returns the indices of the shards that have not finished."""
        return [index for index in range(count) if not _read(self._shard_path(index, count))]

    def _shard_path(self, index: int, count: int) -> pathlib.Path:
        return self.folder / "shards" / f"{index}-of-{count}.json"

    def _pictures_path(self, video: Video, segments: int) -> pathlib.Path:
        return self.folder / "scores" / video.sha256[:32] / f"pictures.{segments}.npz"

    def _scores_path(self, video: Video, key: Mapping[str, Any]) -> pathlib.Path:
        metric = str(key["metric"]).replace("/", ".")
        name = f"{metric}.{_hash(json.dumps(key, sort_keys=True))[:16]}.json"
        return self.folder / "scores" / video.sha256[:32] / name


def score_key(
    video: Video,
    metric: str,
    settings: Mapping[str, Any],
    segments: int,
    weights: Mapping[str, str],
) -> dict[str, Any]:
    """Returns everything that a video's scores depend on: its content and ground truth, settings,
    weights' hashes, the measuring code, and the decoding and vision libraries."""
    return {
        "format": FORMAT,
        "metric": metric,
        "settings": json.loads(json.dumps(settings)),
        "segments": segments,
        "video": video.sha256,
        "truth": _cached_sha256(video.truth, video.truth.stat().st_mtime_ns) if video.truth else "",
        "weights": dict(weights),
        "code": _code_hash(),
        "libraries": {"av": av.__version__, "opencv": cv2.__version__},
    }


@functools.lru_cache(maxsize=8)  # every metric needs it
def _cached_sha256(path: pathlib.Path, mtime_ns: int) -> str:
    return sha256_of(path)


@functools.cache
def _code_hash() -> str:
    """Returns a hash of the modules that compute scores, so that a changed one invalidates them."""
    root = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    suites = (path for name in MEASURING_FOLDERS for path in (root / name).glob("*.py"))
    for path in sorted([*suites, *(root / name for name in MEASURING)]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _has_types(value: Any, types: Mapping[str, Any]) -> TypeGuard[dict[str, Any]]:
    """Returns whether an object has exactly these entries, with these types."""
    return (
        isinstance(value, dict)
        and value.keys() == types.keys()
        and all(
            isinstance(value[name], type_) and not isinstance(value[name], bool)
            for name, type_ in types.items()
        )
    )


def _float_to_json(value: float) -> float | str:
    return str(float(value)) if math.isinf(value) else value


def _is_score(value: Any) -> bool:
    if isinstance(value, str):
        return value in _INFINITE
    return isinstance(value, int | float | None) and not isinstance(value, bool)


def _is_jpeg(content: bytes) -> bool:
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            image.load()
        return True
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return False


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except UserError:
        return {}


def _write(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
