"""Cleaning, encoding, refusals and unknown words."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_values import changed, places

from bvjax.errors import UserError
from bvjax.tokenizer import EOS_ID, MASK_PIECE, PAD_ID, Tokenizer, clean, unknown_words, words
from bvjax.tokenizer_files import find_tokenizer

# Made by tests/golden/make_tokenizer.py with transformers and diffusers.
GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizer"
FILES = ("spiece.model", "tokenizer.json")

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
    assert (
        clean("Pip doesnâ€™t, \u201cBo\u201d does; cafÃ© ﬁve")
        == 'Pip doesn\'t, "Bo" does; café five'
    )
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


def golden():
    stored = json.loads((GOLDEN / "ids.json").read_text())
    return stored["size"], stored["cases"]


def row(tokenizer, text, length=64):
    ids, mask = tokenizer.encode([text], length)
    return ids[0][mask[0]].tolist()


def quotes_a_token(text):
    return any(token in text for token in ("<extra_id_", "</s>", "▁"))


def test_cleaning_is_that_of_the_public_pipeline():
    _, cases = golden()
    assert sum(text != cleaned for text, cleaned, _ in cases) > 6
    for text, cleaned, _ in cases:
        assert clean(text) == cleaned


@pytest.mark.parametrize("name", FILES)
def test_ids_are_those_of_transformers(name):
    size, cases = golden()
    tokenizer = pickle.loads(pickle.dumps(Tokenizer(GOLDEN / name)))
    json_file = name == "tokenizer.json"
    assert tokenizer.vocab_size == (size if json_file else size - 8)  # the extra ids
    for text, _, ids in cases:
        if json_file or not quotes_a_token(text):
            assert row(tokenizer, text) == ids, text
        else:  # a SentencePiece model has no such tokens in text
            assert row(tokenizer, text) != ids
    assert tokenizer.decode([32, 3, 35, 13, EOS_ID, PAD_ID]) == "A red"
    assert tokenizer.mask_id is None


def test_extra_ids_and_the_mask_piece_of_a_json_file(tmp_path):
    tokenizer = Tokenizer(GOLDEN / "tokenizer.json")
    # transformers counts them down: the first has the last id
    assert row(tokenizer, "<extra_id_0>") == [tokenizer.vocab_size - 1, EOS_ID]
    assert tokenizer.decode([tokenizer.vocab_size - 1, 32, EOS_ID]) == "A"
    stored = json.loads((GOLDEN / "tokenizer.json").read_text())
    stored["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    stored["padding"] = {
        "strategy": {"Fixed": 99},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    stored["model"]["vocab"][50][0] = MASK_PIECE
    (tmp_path / "used.json").write_text(json.dumps(stored))
    again = Tokenizer(tmp_path / "used.json")
    assert again.mask_id == 50
    text = golden()[1][3][0]
    assert row(again, text) == row(tokenizer, text)  # neither cut nor padded
    with pytest.raises(UserError, match="caption 1 has .* tokens, the limit is 4"):
        again.encode([text], 4)


def test_pieces_that_are_no_text_are_refused(tmp_path, model_file):
    content = model_file.read_bytes()
    (tmp_path / "t.model").write_bytes(content.replace("▁".encode(), b"\xffxx", 1))
    with pytest.raises(UserError, match="t.model is damaged: it has pieces that are not text"):
        Tokenizer(tmp_path / "t.model")


@pytest.mark.parametrize(
    "where",
    [("normalizer", "precompiled_charsmap"), ("post_processor", "single", 1, "SpecialToken", "id")],
)
def test_panics_of_the_library_are_refusals(tmp_path, capfd, where):
    path = tmp_path / "tokenizer.json"
    stored = json.loads((GOLDEN / "tokenizer.json").read_text())
    path.write_text(json.dumps(changed(stored, where, "x")))
    with pytest.raises(UserError, match="is not a tokenizer.json: it is damaged"):
        Tokenizer(path)
    assert capfd.readouterr().err == ""


STRANGE = st.sampled_from(
    [None, True, 0, 1, -1, 2**31, 2**63, 1e30, "", "x", "\0", [], {}, [0], [["a", 0.0]], "Unigram",
     "</s>", "<pad>", [["</s>", 0.0]]]
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_file_encodes_or_is_refused(tmp_path, capfd, name, data):
    content = (GOLDEN / name).read_bytes()
    if name == "tokenizer.json" and data.draw(st.integers(0, 3)):
        stored = json.loads(content)
        where = data.draw(st.sampled_from(sorted(places(stored, first=4), key=str)))
        content = json.dumps(changed(stored, where, data.draw(STRANGE))).encode()
    else:
        at, new = (
            data.draw(st.integers(0, len(content))),
            data.draw(st.binary(min_size=1, max_size=8)),
        )
        after = data.draw(st.sampled_from([at, at + len(new), len(content)]))
        content = content[:at] + new + content[after:]
    (tmp_path / name).write_bytes(content)
    try:
        tokenizer = Tokenizer(tmp_path / name)
        ids, mask = tokenizer.encode(["A red fox, 漢字 </s>", ""], 4096)
        assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size and mask.any(1).all()
    except UserError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)
    assert capfd.readouterr().err == ""


def test_refuses_other_json_files(tmp_path):
    content = (GOLDEN / "tokenizer.json").read_text()
    stored = json.loads(content)
    path = tmp_path / "tokenizer.json"
    bpe = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    swapped = [["</s>", 0.0], ["<pad>", 0.0], *stored["model"]["vocab"][2:]]
    no_eos = stored | {"post_processor": None}
    for damaged, says in (
        ("", "is not a tokenizer.json: it is damaged"),
        (content[:-40], "is not a tokenizer.json: it is damaged"),
        ("[1, 2]", "is not a tokenizer.json"),
        ('{"model_type": "umt5"}', "is not a tokenizer.json"),
        (json.dumps(stored | {"normalizer": {"type": "Unheard"}}), "is not a tokenizer.json"),
        (json.dumps(stored | {"model": bpe}), "holds a BPE tokenizer; umT5"),
        (json.dumps({"added_tokens": [], "model": {"type": "Unigram", "unk_id": 0,
         "vocab": [["a", 0.0]]}}), "has pad id None and end-of-sentence id None"),
        (json.dumps(no_eos), "does not end captions with </s>"),
        (json.dumps(stored | {"added_tokens": [], "model": stored["model"] | {"vocab": swapped}}),
         "has pad id 1 and end-of-sentence id 0; a T5 tokenizer has 0 and 1"),
    ):  # fmt: skip
        path.write_text(damaged)
        with pytest.raises(UserError, match=says) as caught:
            Tokenizer(path)
        assert "tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)


def test_find_tokenizer(tmp_path):
    with pytest.raises(UserError, match="has no tokenizer: no tokenizer.model, tokenizer.json, "):
        find_tokenizer(tmp_path)
    for inner in ("google/umt5-xxl", "tokenizer", "."):  # each before the one made before it
        folder = tmp_path / inner
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("spiece.model", "tokenizer.json"):
            shutil.copy(GOLDEN / name, folder)
            assert find_tokenizer(tmp_path) == folder / name
    shutil.copy(GOLDEN / "tokenizer.json", tmp_path / "tokenizer.model")
    assert row(Tokenizer(find_tokenizer(tmp_path)), "<extra_id_7>") == [77, EOS_ID]  # by content


def test_words():
    assert words(["Pip's bow-tie, the THE (07s)!", "Pip &amp; Bo\u2019s _owl_"]) == {
        "pip",
        "bow-tie",
        "the",
        "07s",
        "bo",
        "owl",
    }


def test_unknown_words():
    known = words(TEXT)
    assert unknown_words(TEXT, known) == []
    assert unknown_words(["A green fox walks.", "Bo's Zeppelin, green."], known) == [
        "green",
        "zeppelin",
    ]
