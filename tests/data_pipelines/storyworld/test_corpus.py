"""The caption corpus and the vocabulary learned from it."""

from __future__ import annotations

import pytest

from bvjax.errors import UserError
from bvjax.tokenizer import Tokenizer, words
from data_pipelines.storyworld import corpus, world


@pytest.fixture(scope="module")
def captions():
    return corpus.caption_corpus(range(150), "train")


@pytest.fixture(scope="module")
def tokenizer_file(captions, tmp_path_factory):
    path = tmp_path_factory.mktemp("sp") / "tokenizer.model"
    assert corpus.train_tokenizer(captions, path, 1024) <= 1024
    return path


def test_captions_lose_their_times_and_keep_the_full_stop(captions):
    assert len(captions) == 150 * 15
    assert all(c.endswith(".") and "(" not in c and not c.endswith("..") for c in captions)
    assert captions[15:30] == corpus.caption_corpus([1], "train")
    assert captions[:15] != corpus.caption_corpus([0], "heldout")


def test_names_and_attributes_are_single_tokens(tokenizer_file):
    tokenizer = Tokenizer(tokenizer_file)
    for word in (*world.NAMES, *world.SPECIES, *world.COLOURS, *" ".join(world.TOPONYMS).split()):
        assert tokenizer.encode([word], 8)[1].sum() == 2, word  # the word and the end of sentence


def test_case_is_folded_and_every_character_has_an_id(tokenizer_file):
    tokenizer = Tokenizer(tokenizer_file)
    assert tokenizer.mask_id == 3
    (lower, upper), _ = tokenizer.encode(["the fox pip", "The FOX Pip"], 8)
    assert (lower == upper).all()
    assert corpus.UNK_ID not in tokenizer.encode(["狐 naïve – Pip's #1"], 40)[0]


def test_heldout_captions_fit_and_share_the_words(captions, tokenizer_file):
    heldout = corpus.caption_corpus(range(20), "heldout")
    Tokenizer(tokenizer_file).encode(heldout, 40)
    assert len(words(heldout) - words(captions)) <= 2  # 150 stories lack the rarest wordings


def test_training_is_deterministic(captions, tmp_path):
    for name in ("a", "b"):
        corpus.train_tokenizer(captions[:300], tmp_path / name, 400)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_vocabulary_that_cannot_be_is_refused(captions, tmp_path):
    with pytest.raises(UserError, match="cannot make a tokenizer of 5 pieces"):
        corpus.train_tokenizer(captions[:30], tmp_path / "t.model", 5)
    assert not list(tmp_path.iterdir())


def test_vocabulary_file(tmp_path):
    corpus.write_vocabulary(["Pip walks.", "The pip's walk"], tmp_path / "vocabulary.txt")
    assert (tmp_path / "vocabulary.txt").read_text() == "pip\nthe\nwalk\nwalks\n"
