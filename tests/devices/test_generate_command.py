"""The command `bvjax generate` itself: two processes of four devices make the video of one of eight."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bvjax.distributed.cluster import local_flags

ROOT = pathlib.Path(__file__).parents[2]


def generate(out, story, weights, processes, devices, *words):
    """What each process printed; they are asserted to end well."""
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(out.parent),
        # The second process has no text states from earlier runs, so that the two would not do the same by chance.
        "XDG_CACHE_HOME": str(out.parent / "cache"),
    }
    command = [
        *(sys.executable, "-m", "bvjax", "generate", f"--weights={weights}", f"--story={story}"),
        *(f"--out={out}", "--mesh=data=2,context=2,tensor=2", *words),
    ]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running = [
        subprocess.Popen([*command, *o], env=env, cwd=ROOT, **pipes) for o in local_flags(processes)
    ]
    texts = [process.communicate(timeout=1500)[0] for process in running]
    assert not any(process.returncode for process in running), "\n----\n".join(texts)[-6000:]
    return texts


def latents(run):
    files = sorted((run / "latents").glob("*.npy"))
    return {file.name: np.load(file) for file in files}


def close(a, b):
    assert set(a) == set(b) and len(a) == 3
    for name, want in b.items():
        np.testing.assert_allclose(a[name], want, atol=1e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_and_go_on_with_it(tiny, tmp_path):
    story = tmp_path / "story.json"
    story.write_text(json.dumps({"captions": list(tiny.captions[:2])}))
    few = "--set=sampler.steps=2", "--set=memory.capacity=8"
    generate(tmp_path / "one", story, tiny.weights, 1, 8, *few)
    one, two = latents(tmp_path / "one"), tmp_path / "two"
    texts = generate(two, story, tiny.weights, 2, 4, *few)
    close(latents(two), one)
    assert (two / "video.mp4").is_file() and (two / "report.json").is_file()
    assert "report.png" in texts[0] and "chunk 1/2" not in texts[1]
    # Process 1 has left nothing behind, and the same command goes on from what process 0 has on disk.
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("bvjax-")]
    last = sorted((two / "latents").glob("*.npy"))[-1]
    last.unlink()
    (two / "video.mp4").unlink()
    texts = generate(two, story, tiny.weights, 2, 4, *few)
    close(latents(two), one)
    assert "chunk 1/2: was there" in texts[0] and (two / "video.mp4").is_file()
    shutil.rmtree(tmp_path / "one")
    texts = generate(two, story, tiny.weights, 2, 4, *few)
    assert "is finished" in texts[0] and "is finished" not in texts[1]
