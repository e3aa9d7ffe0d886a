"""`python -m bvjax doctor`: is everything there to make a video, and does it work?"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence

import jax

from bvjax import machine, weights
from bvjax.errors import UserError, WorkError
from bvjax.loading import bundle as bundles
from bvjax.media import video_io
from bvjax.runs.create import create_run
from bvjax.runs.execute import execute
from bvjax.story import Story
from bvjax.versions import software

CAPTIONS = (
    "A red fox named Pip sits in a meadow in the morning.",
    "Pip waves and walks off to the left.",
)


def examine(say: Callable[[str], None]) -> bool:
    """Reports line by line through `say`, the verdict last; False when something does not work.

    A check that fails, however it fails, keeps none of the others from being made.
    """
    checks = (
        ("software", _software),
        ("devices", _devices),
        ("memory", _memory),
        ("disk", _disk),
        ("video", _video),
        ("weights", _weights),
        ("two chunks", _two_chunks),
    )
    failed = []
    for name, check in checks:
        try:
            say(f"ok    {name}: {check()}")
        except Exception as error:  # whatever is wrong here, the rest is worth knowing
            failed.append(name)
            reported = machine.translated(error) or error
            kind = (
                ""
                if isinstance(reported, UserError | WorkError)
                else f"{type(reported).__name__}: "
            )
            say(f"WRONG {name}: {kind}{' '.join(str(reported).split())}")
    say(_verdict(failed))
    return not failed


def _verdict(failed: Sequence[str]) -> str:
    if not failed:
        return "all is well: videos can be made here"
    return f"videos cannot be made here as it is: see {', '.join(failed)}"


def _software() -> str:
    versions = software()
    return ", ".join(f"{k} {versions[k]}" for k in ("bvjax", "jax", "python"))


def _devices() -> str:
    kinds = [f"{d.platform} {d.device_kind}" for d in jax.devices()]
    return f"backend {jax.default_backend()}: {', '.join(kinds)}; {os.cpu_count()} CPU cores"


def _memory() -> str:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = f"{machine.host_bytes() / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    with contextlib.suppress(Exception):  # what is wrong with the devices is said there
        size = machine.device_bytes()
        if size and jax.default_backend() != "cpu":
            text += f"; {size / 1e9:.1f} GB on the device"
    return text


def _disk() -> str:
    free = shutil.disk_usage(pathlib.Path.cwd()).free
    if free < 1 << 30:
        raise UserError(f"{free / 1e9:.2f} GB are free here; a run wants 1 GB")
    return f"{free / 1e9:.0f} GB free here"


def _video() -> str:
    with tempfile.TemporaryDirectory() as folder:
        video_io.check_writer(folder, 256, 256, 8)
    return "H.264 can be written and read back"


def _weights() -> str:
    folder = bundles.find_weights(None, None)
    sizes = [(folder / f"{part}.safetensors").stat().st_size for part in weights.PARTS]
    return f"{folder}, {sum(sizes) / 1e6:.0f} MB"


def _two_chunks() -> str:
    folder = bundles.find_weights(None, None)
    bundle = bundles.load_bundle(folder)
    model = bundle.model
    model = dataclasses.replace(model, sampler=dataclasses.replace(model.sampler, steps=4))
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        with create_run(bundle, model, Story(CAPTIONS), pathlib.Path(out) / "run") as run:
            parts = [progress.seconds for progress in execute(run, bundle)]
            frames = len(video_io.read_video(run.video)[0])
        seconds = time.perf_counter() - started
    if frames != run.grid.num_frames:
        raise UserError(f"the video has {frames} frames instead of {run.grid.num_frames}")
    return f"{frames} frames in {seconds:.0f} s with compilation; the second chunk in " + ", ".join(
        f"{part} {value:.2f} s" for part, value in parts[-1].items()
    )
