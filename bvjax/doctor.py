"""`python -m bvjax doctor`: is everything there to make a video, and does it work?"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable

import jax

from bvjax import weights
from bvjax.errors import UserError
from bvjax.generate import bundle as bundles
from bvjax.generate import session, video_io
from bvjax.story import Story
from bvjax.versions import versions

CAPTIONS = (
    "A red fox named Pip sits in a meadow in the morning.",
    "Pip waves and walks off to the left.",
)


def examine(say: Callable[[str], None]) -> bool:
    """Reports line by line through `say`; False when something a video needs does not work."""
    checks = (
        ("software", _software), ("devices", _devices), ("memory", _memory), ("disk", _disk),
        ("video", _video), ("weights", _weights), ("two chunks", _two_chunks),
    )  # fmt: skip
    well = True
    for name, check in checks:
        try:
            say(f"ok    {name}: {check()}")
        except UserError as error:
            well = False
            say(f"WRONG {name}: {error}")
    return well


def _software() -> str:
    found = versions()
    return ", ".join(f"{k} {found[k]}" for k in ("bvjax", "jax", "python"))


def _devices() -> str:
    kinds = [f"{d.platform} {d.device_kind}" for d in jax.devices()]
    return f"backend {jax.default_backend()}: {', '.join(kinds)}; {os.cpu_count()} CPU cores"


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (os.sysconf(n) * page for n in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    text = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        text += f"; {stats['bytes_limit'] / 1e9:.1f} GB on the device"
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
        with session.begin(bundle, model, Story(CAPTIONS), pathlib.Path(out) / "run") as run:
            parts = [progress.seconds for progress in session.produce(run, bundle)]
            frames = len(video_io.read_video(run.video)[0])
        took = time.perf_counter() - started
    if frames != run.grid.num_frames:
        raise UserError(f"the video has {frames} frames instead of {run.grid.num_frames}")
    return f"{frames} frames in {took:.0f} s with compilation; the second chunk in " + ", ".join(
        f"{part} {value:.2f} s" for part, value in parts[-1].items()
    )
