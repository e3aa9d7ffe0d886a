"""Videos that were made elsewhere from the stories of the benchmark: the judge needs only their pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bvjax.errors import UserError
from bvjax.files import sha256_of
from bvjax.media.source_video import fitted, pick_frames
from data_pipelines.storyworld import chunk_frames
from experiments.evaluation.judge import Judge
from experiments.evaluation.results import Record, Results
from experiments.memory_bench.cases import Case
from experiments.memory_bench.judging import FPS, SIZE, Frames, record_of

ENDINGS = (".mp4", ".mkv", ".webm", ".mov")


def find_videos(folder: Path, cases: Iterable[Case]) -> dict[Case, Path]:
    """The video of each case, named as the case is; raises `UserError` for a folder that lacks one."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} of videos")
    found, missing = {}, []
    for case in cases:
        paths = [folder / f"{case.key}{ending}" for ending in ENDINGS]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            missing.append(f"{case.key}.mp4")
        else:
            found[case] = path
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{folder} has no video {missing[0]}{more}; each case of the manifest needs one"
        )
    return found


def read_chunks(path: Path, case: Case, chunks: Sequence[int]) -> list[Frames]:
    """The frames of some chunks of a case in the judge's size and rate.

    Chunk c is what is shown from 4 (c - 1) to 4 c seconds after the first frame; a video of another rate is sampled, one
    of another shape cut to the middle.

    Raises `UserError` for a video that ends before the last of them does.
    """
    spans = [chunk_frames(chunk, FPS) for chunk in chunks]
    wanted = {k for span in spans for k in span}
    frames = {k: fitted(shown, SIZE, SIZE) for k, shown in pick_frames(path, FPS, wanted)}
    last = max(wanted)  # the first frame of the next 4 s, which not every video has
    if last - 1 in frames:
        frames.setdefault(last, frames[last - 1])
    if len(frames) < len(wanted):
        ends = (max(frames, default=-1) + 1) / FPS
        raise UserError(
            f"the video {path} is too short: case {case.key} lasts {last / FPS:g} s, and of what is judged nothing is "
            f"there after {ends:g} s"
        )
    return [np.stack([frames[k] for k in span]) for span in spans]


def judge_videos(
    judge: Judge, videos: dict[Case, Path], records: dict[str, Record], results: Results
) -> None:
    """Adds a record for each video that has none, or has changed since.

    Raises `UserError` for one that is damaged or too short.
    """
    for case, path in tqdm(videos.items(), desc="videos", dynamic_ncols=True):
        name, digest = f"{case.key} | ", sha256_of(path)
        if records.get(name, {}).get("sha256") == digest:
            continue
        met, returned = read_chunks(path, case, (case.met[0], case.chunk))
        record = record_of(judge, case, FPS, returned, met)
        records[name] = {**record, "sha256": digest}
        results.save()
