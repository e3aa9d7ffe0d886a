"""The storyworld stories that ship speak the language the mini model learns."""

import pathlib

import pytest

from bvjax.story import load_story, split_times
from bvjax.tokenizer import words
from data_pipelines.storyworld.captions import MAX_WORDS, mentions
from data_pipelines.storyworld.plan import make_story

STORIES = pathlib.Path(__file__).parents[2] / "experiments" / "stories"


@pytest.fixture(scope="module")
def vocabulary():
    captions = (caption for seed in range(400) for caption in make_story(seed).captions)
    return words(split_times(caption)[0] for caption in captions)


@pytest.mark.parametrize("name", ["fox", "three_places", "night_forest", "five_minutes"])
def test_words_are_known(name, vocabulary):
    captions = load_story(STORIES / f"{name}.json").captions
    assert not words(captions) - vocabulary
    assert max(len(caption.split()) for caption in captions) <= MAX_WORDS


def test_the_fox_is_described_once_and_returns_by_name():
    captions = load_story(STORIES / "fox.json").captions
    seen = [mentions(caption) for caption in captions]
    with_pip = [number for number, found in enumerate(seen, start=1) if "Pip" in found["names"]]
    assert with_pip == [1, 2, 3, 12, 13, 14, 15]
    assert [n for n, found in enumerate(seen, start=1) if "fox" in found["species"]] == [1]
    assert [n for n, found in enumerate(seen, start=1) if "orange" in found["colours"]] == [1]
