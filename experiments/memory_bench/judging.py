"""From the frames of a chunk to what the judge sees in it (`experiments.evaluation.judge`).

Frames are judged in which ground truth shows who returns, and nobody else, and the place with the camera at rest.
"""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageOps
from jaxtyping import UInt8

from bvjax.config import ChunkConfig
from data_pipelines.storyworld import chunk_frames
from data_pipelines.storyworld.world import CHUNK_SECONDS
from experiments.evaluation.cases import judged_frames
from experiments.evaluation.judge import Judge
from experiments.evaluation.results import Record
from experiments.memory_bench.cases import WHO, Case

SIZE, FPS = 64, 8  # of the frames that the judge learnt from
Frames = UInt8[np.ndarray, "f h w 3"]


def frames_of(frames: Frames, chunk: int, fps: int) -> Frames:
    """The frames of a chunk, counted from 1, of a whole video."""
    span = chunk_frames(chunk, fps)
    return frames[span.start : span.stop]


def look(judge: Judge, case: Case, chunk: int, frames: Frames, fps: int) -> dict[str, int]:
    """Returns the labels that the judge reads in the frames of one chunk of a case; -1 where nothing may be judged."""
    config = ChunkConfig(SIZE, SIZE, fps, frames=int(CHUNK_SECONDS * fps))
    mask = lambda kind, index: judged_frames(case.story, chunk, kind, index, config)[None]
    subject = mask("subject", WHO)
    place = subject & False if case.place is None else mask("place", case.place)
    seen = judge.verdict(fitted(frames)[None], subject, place)
    return {head: int(rows[0]) for head, rows in seen.items() if head in case.truth}


def record_of(
    judge: Judge, case: Case, fps: int, returned: Frames, met: Frames | None = None
) -> Record:
    """{right: by label; same: subject and place as they were introduced, None where that is not asked}.

    Args:
        returned: the frames of the chunk of the return.
        met: those of the first chunk that introduces who returns, where the video made them itself.
    """
    now = look(judge, case, case.chunk, returned, fps)
    record: Record = {"right": {head: now[head] == want for head, want in case.truth.items()}}
    if met is not None:
        then = look(judge, case, case.met[0], met, fps)
        alike = {head: now[head] == then[head] for head in now}
        record["introduced"] = {head: then[head] == want for head, want in case.truth.items()}
        record["same"] = {"subject": alike["species"] and alike["colour"]}
        if "place" in alike:
            record["same"]["place"] = alike["place"]
    return record


def fitted(frames: Frames) -> Frames:
    """Frames in the judge's size: cut to the middle where their shape is another, and resized."""
    if frames.shape[1:3] == (SIZE, SIZE):
        return frames
    fit = lambda frame: PIL.ImageOps.fit(
        PIL.Image.fromarray(frame), (SIZE, SIZE), PIL.Image.Resampling.LANCZOS
    )
    return np.stack([np.asarray(fit(frame)) for frame in frames])
