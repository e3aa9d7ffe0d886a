"""Cleaning, encoding, refusals and unknown words."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.tokenizer import EOS_ID, MASK_PIECE, PAD_ID, Tokenizer, clean, unknown_words, words

TEXT = [
    "A red fox named Pip walks to the lake.",
    "Pip waves at the lake, while the rain falls.",
    "At the lake, a blue owl called Bo meets Pip.",
]


def train(path, **options):
    model = io.BytesIO()
    options = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, byte_fallback=True) | options
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXT), model_writer=model, vocab_size=350, hard_vocab_limit=False,
        num_threads=1, minloglevel=2, **options,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return train(tmp_path_factory.mktemp("sp") / "t.model", control_symbols=[MASK_PIECE])


@pytest.fixture(scope="module")
def tokenizer(model_file):
    return Tokenizer(model_file)


def test_clean():
    assert clean("  A  fox\n\t&amp;amp; an&nbsp;owl \u3000sit ") == "A fox & an owl sit"
    assert clean("Pip &lt;3 Bo") == "Pip <3 Bo"
    assert clean(" \n") == ""


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.text("x&;ampnbs \t\n\u3000\xa0", max_size=30))
def test_cleaned_text_has_single_inner_spaces_only(text):
    cleaned = clean(text)
    assert cleaned == cleaned.strip()
    assert all(cleaned.split(" ")) or cleaned == ""


def test_encode_appends_end_of_sentence_and_pads(tokenizer):
    ids, mask = tokenizer.encode(["Pip waves.", "", TEXT[2]], 40)
    assert ids.shape == mask.shape == (3, 40)
    assert ids.dtype == np.int32 and mask.dtype == bool
    lengths = mask.sum(axis=1)
    assert lengths[1] == 1 and lengths[2] > lengths[0] > 3
    for row, valid, length in zip(ids, mask, lengths, strict=True):
        assert valid[:length].all()  # the mask is a prefix
        assert row[length - 1] == EOS_ID and EOS_ID not in row[: length - 1]
        assert (row[length:] == PAD_ID).all() and PAD_ID not in row[:length]
    assert tokenizer.decode(ids[2]) == TEXT[2]
    assert ids.max() < tokenizer.vocab_size


def test_encode_cleans_and_takes_any_character(tokenizer):
    plain, _ = tokenizer.encode(["Pip waves."], 40)
    messy, _ = tokenizer.encode(["  Pip \n waves.  "], 40)
    np.testing.assert_array_equal(plain, messy)
    ids, mask = tokenizer.encode(["狐 Pip"], 40)
    assert tokenizer.decode(ids[0][mask[0]]) == "狐 Pip"
    assert tokenizer.encode([], 8)[0].shape == (0, 8)


def test_encode_refuses_what_does_not_fit(tokenizer):
    length = int(tokenizer.encode([TEXT[1]], 99)[1].sum())
    tokenizer.encode(["Pip.", TEXT[1]], length)
    with pytest.raises(UserError, match=rf"caption 2 has {length} tokens.* {length - 1}"):
        tokenizer.encode(["Pip.", TEXT[1]], length - 1)


def test_the_mask_piece_never_comes_from_text(tokenizer, tmp_path):
    assert tokenizer.mask_id == 3
    assert tokenizer.mask_id not in tokenizer.encode([f"a {MASK_PIECE} b"], 40)[0]
    assert Tokenizer(train(tmp_path / "plain.model")).mask_id is None


def test_survives_pickle(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(again.encode(TEXT, 40)[0], tokenizer.encode(TEXT, 40)[0])


def test_refuses_missing_and_foreign_models(tmp_path, model_file):
    with pytest.raises(UserError, match="cannot read the tokenizer model .*none.model"):
        Tokenizer(tmp_path / "none.model")
    proto = model_file.read_bytes()
    damaged = tmp_path / "damaged.model"
    for part in (b"", b"PK\x03\x04" * 20, proto[:40], proto[: len(proto) // 2], proto[:-1]):
        damaged.write_bytes(part)
        with pytest.raises(UserError, match="damaged.model is not a SentencePiece model"):
            Tokenizer(damaged)
    with pytest.raises(UserError, match="a T5 tokenizer has 0 and 1"):
        Tokenizer(train(tmp_path / "foreign.model", pad_id=-1, eos_id=1, unk_id=0))


def test_words():
    assert words(["Pip's bow-tie, the THE (07s)!", "Pip &amp; Bo\u2019s _owl_"]) == {
        "pip", "bow-tie", "the", "07s", "bo", "owl",
    }  # fmt: skip


def test_unknown_words():
    known = words(TEXT)
    assert unknown_words(TEXT, known) == []
    assert unknown_words(["A green fox walks.", "Bo's Zeppelin, green."], known) == [
        "green", "zeppelin",
    ]  # fmt: skip
