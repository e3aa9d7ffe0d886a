"""Captions that change while a run is made: the video is the one that a run with these captions has, to the bit."""

import dataclasses
import json

import jax.numpy as jnp
import pytest

from bvjax.denoiser.watch import Watch
from bvjax.runs.create import create_run
from bvjax.runs.execute import execute, is_finished
from bvjax.runs.redo import rewrite_coming
from bvjax.story import Story
from tests.bvjax.runs.conftest import latents


@pytest.fixture(scope="module")
def watch(bundle):
    """With one, chunks are not asked for ahead of time on a CPU."""
    nothing = jnp.zeros((bundle.model.vae.z_dim + 1, 3))
    return Watch(nothing, nothing, lambda *_: None)


@pytest.fixture(scope="module")
def after(tmp_path_factory, bundle, story):
    """Other captions from chunk 4 on, one more of them, and the latents of a run that had them from the start."""
    captions = (*story.captions[:3], "Ada waves.", "Pip sits.", "Ada walks off.")
    path = tmp_path_factory.mktemp("coming") / "after"
    with create_run(bundle, bundle.model, Story(captions, title="Pip"), path, seed=5) as run:
        list(execute(run, bundle))
    return captions, latents(path)


def made(run, bundle, changes, watch=None):
    """(number, fresh) of what one `execute` yields; after chunk n captions become changes[n]."""
    found = []
    for progress in execute(run, bundle, watch=watch):
        found.append((progress.chunk, progress.fresh))
        if progress.chunk in changes:
            rewrite_coming(run, bundle, changes[progress.chunk])
    return found


@pytest.mark.parametrize("ahead", [False, True])
def test_a_run_goes_on_with_the_captions_that_came(
    bundle, story, after, watch, tmp_path, monkeypatch, ahead
):
    """The next chunk is asked for ahead of time or not: after chunk 2, caption 4 is of none that is begun."""
    captions, want = after
    with create_run(bundle, bundle.model, story, tmp_path / "run", seed=5) as run:
        changes = {2: captions} if ahead else {3: captions}
        found = made(run, bundle, changes, None if ahead else watch)
        assert found == [(n, True) for n in range(7)] and is_finished(run)
    assert latents(tmp_path / "run") == want
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [chunk["caption"] for chunk in report["chunks"]] == list(captions)


def test_a_chunk_in_the_making_that_changes_is_not_kept(bundle, story, after, tmp_path):
    captions, want = after
    with create_run(bundle, bundle.model, story, tmp_path / "run", seed=5) as run:
        assert made(run, bundle, {3: captions}) == [(n, True) for n in range(4)]
        assert not (run.path / "report.json").exists() and not is_finished(run)
        assert made(run, bundle, {}) == [(n, n > 3) for n in range(7)] and is_finished(run)
    assert latents(tmp_path / "run") == want


def test_a_story_that_ends_with_the_chunk_at_hand_is_finished(bundle, story, tmp_path, finished):
    with create_run(bundle, bundle.model, story, tmp_path / "run", seed=5) as run:
        assert made(run, bundle, {2: story.captions[:2]}) == [(n, True) for n in range(3)]
        assert is_finished(run)
    assert latents(tmp_path / "run") == {
        name: content for name, content in latents(finished).items() if name < "chunk_03"
    }


def test_a_story_that_grows_at_its_end(bundle, story, tmp_path):
    with create_run(bundle, bundle.model, story, tmp_path / "run", seed=5, chunks=2) as run:
        made(run, bundle, {2: story.captions[:3]})
        assert not is_finished(run)
        assert made(run, bundle, {}) == [(0, False), (1, False), (2, False), (3, True)]


def test_a_policy_that_decided_early_begins_again(bundle, story, tmp_path):
    """Entries that are encoded anew at a new caption are kept from the start."""
    prompt = dataclasses.replace(bundle.model.prompt, change="recache")
    model = dataclasses.replace(bundle.model, prompt=prompt)
    with create_run(bundle, model, story, tmp_path / "run", seed=5) as run:
        captions = (*story.captions[:4], "Ada waves.")
        assert made(run, bundle, {2: captions}) == [(n, True) for n in range(3)]
        assert not is_finished(run)
