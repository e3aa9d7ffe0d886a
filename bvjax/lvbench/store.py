"""What has been measured, on disk: a file per (video, metric), so that a killed run loses nothing.

OUT/videos/HASH.json                 a file's content hash and number of frames, while it is unchanged
OUT/scores/CONTENT/METRIC.KEY.json   `Scores`; the key is a hash of all that they depend on
OUT/scores/CONTENT/pictures.N.npz    a small JPEG of the middle of each segment, for the report
OUT/shards/I-of-N.json               a process has done its part; what it could not measure, and why

Several processes may use one folder: files appear whole, and equal keys have equal content.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import av
import cv2
import numpy as np

from bvjax.errors import UserError
from bvjax.files import npz_bytes, read_json_object, sha256_of, write_atomic, write_json
from bvjax.lvbench.metric import Scores
from bvjax.lvbench.video import Video, name_of, probe, truth_beside

FORMAT = 1  # of the files here; part of every key
# Modules whose code makes scores, beside those of the suites and networks.
MEASURING = ("batching.py", "clarity.py", "motion.py", "vde.py", "video.py", "../video_frames.py")


class Store:
    """The folder of one evaluation."""

    def __init__(self, folder: pathlib.Path):
        self.folder = pathlib.Path(folder)

    def video(self, path: pathlib.Path, root: pathlib.Path) -> Video:
        """`probe`, remembered while the file stays as it is; raises `UserError`."""
        found = path.stat()
        place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        state = [FORMAT, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        record = self.folder / "videos" / f"{place}.json"
        stored = _read(record)
        if stored.get("state") == state:
            return Video(
                path=path, name=name_of(path, root), truth=truth_beside(path), **stored["video"]
            )
        video = probe(path, root)
        facts = dataclasses.asdict(video)
        for name in ("path", "name", "truth"):
            facts.pop(name)
        _write(record, {"state": state, "video": facts})
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
        stored = _read(self._file(video, key))
        if stored.get("key") != key:
            return None
        scores = stored["scores"]
        chunks = tuple(math.nan if c is None else c for c in scores.pop("chunks"))
        return Scores(chunks=chunks, **scores)

    def save(self, video: Video, key: Mapping[str, Any], scores: Scores) -> None:
        """Keeps the scores of a video."""
        content = dataclasses.asdict(scores)
        content["chunks"] = [None if math.isnan(c) else c for c in scores.chunks]
        _write(self._file(video, key), {"key": key, "scores": content})

    def pictures(self, video: Video, segments: int) -> list[bytes] | None:
        """JPEG files of the middles of the segments, or None."""
        path = self._pictures(video, segments)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return [file[f"arr_{i}"].tobytes() for i in range(segments)]
        except (OSError, ValueError, KeyError):
            return None

    def save_pictures(self, video: Video, pictures: Sequence[bytes]) -> None:
        """Keeps the pictures of a video."""
        arrays = {f"arr_{i}": np.frombuffer(p, np.uint8) for i, p in enumerate(pictures)}
        path = self._pictures(video, len(pictures))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, npz_bytes(**arrays))

    def begin_shard(self, index: int, count: int) -> None:
        """Part `index` of `count` is at work."""
        self._shard(index, count).unlink(missing_ok=True)

    def end_shard(self, index: int, count: int, failures: Mapping[str, Sequence[str]]) -> None:
        """That part is done; `failures` has sentences for each video of which something is missing."""
        _write(self._shard(index, count), {"failures": dict(failures)})

    def failures(self, count: int) -> dict[str, list[str]]:
        """What all of `count` parts could not measure, as far as they are done."""
        parts = [_read(self._shard(index, count)) for index in range(count)]
        return {name: why for part in parts for name, why in part.get("failures", {}).items()}

    def at_work(self, count: int) -> list[int]:
        """Which of `count` parts have not ended."""
        return [index for index in range(count) if not self._shard(index, count).is_file()]

    def _shard(self, index: int, count: int) -> pathlib.Path:
        return self.folder / "shards" / f"{index}-of-{count}.json"

    def _pictures(self, video: Video, segments: int) -> pathlib.Path:
        return self.folder / "scores" / video.sha256[:32] / f"pictures.{segments}.npz"

    def _file(self, video: Video, key: Mapping[str, Any]) -> pathlib.Path:
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
    """All that a video's scores depend on: its content and truth, settings, weights' hashes, and
    the code that measures with the libraries that decode and see."""
    return {
        "format": FORMAT,
        "metric": metric,
        "settings": json.loads(json.dumps(settings)),
        "segments": segments,
        "video": video.sha256,
        "truth": _content(video.truth, video.truth.stat().st_mtime_ns) if video.truth else "",
        "weights": dict(weights),
        "code": _code(),
        "libraries": {"av": av.__version__, "opencv": cv2.__version__},
    }


@functools.lru_cache(maxsize=8)  # asked for by each metric
def _content(path: pathlib.Path, changed: int) -> str:
    return sha256_of(path)


@functools.cache
def _code() -> str:
    """A hash of the modules that make scores: after a change, nothing old is taken for new."""
    root = pathlib.Path(__file__).parent
    made = hashlib.sha256()
    for path in sorted([*root.glob("*/*.py"), *(root / name for name in MEASURING)]):
        made.update(path.read_bytes())
    return made.hexdigest()[:16]


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
