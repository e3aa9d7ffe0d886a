"""A whole run of the tiny model, for tests to copy."""

import shutil

import pytest

from bvjax.loading.bundle import load_bundle
from bvjax.runs.create import create_run
from bvjax.runs.execute import execute
from bvjax.story import Story


@pytest.fixture(scope="session")
def bundle(tiny):
    return load_bundle(tiny.weights)


@pytest.fixture(scope="session")
def story(tiny):
    return Story(tiny.captions, title="Pip")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, bundle, story):
    """The folder of a whole run."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    with create_run(bundle, bundle.model, story, path, seed=5) as run:
        progress = list(execute(run, bundle))
    assert [(p.chunk, p.fresh) for p in progress] == [(c, True) for c in range(6)]
    return path


def latents(path):
    return {p.name: p.read_bytes() for p in sorted((path / "latents").glob("*.npy"))}


def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"
