"""Our tokenizer against transformers' T5 tokenizer and diffusers' cleaning of Wan prompts."""

from __future__ import annotations

import io
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bvjax.tokenizer import Tokenizer, clean
from bvjax.tokenizer_files import find_tokenizer

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pipeline_wan = pytest.importorskip("diffusers.pipelines.wan.pipeline_wan")

CORPUS = (
    "A red fox named Pip with a scarf sits at Willow Hollow & waves: don't go!",
    'Pip says "five owls"; then walks <off> to the left in 4K, 16:9 (50% slower).',
    "一只红色的狐狸在湖边走，镜头慢慢推近。色调艳丽，过曝，静态，细节模糊不清，字幕",
    "Ein Café für Füchse, señor. Лиса идёт к озеру. キツネが湖へ歩く。",
)
STRINGS = (
    "", " ", "Pip waves.", "  A red\tfox \n\n walks   to the lake. ", "PIP Waves",
    "Pip &amp; Bo", "Pip &amp;amp; Bo &lt;here&gt;", "&nbsp;Pip&#39;s&nbsp;", "&amp;amp;amp;",
    "donâ€™t go", "â€œPipâ€\x9d", "CafÃ© fÃ¼r", "“Pip’s” owl…", "ﬁve Ａ４Ｋ　owls", "Cafe\u0301 Füchse",
    "a\xa0b\u200bc\u2028d\u00ade", "\ufeffPip", "一只红色的狐狸 Pip", "キツネ ｷﾂﾈ", "狼 ж ☃ ½ ² ™ №",
    "🦊🦊 fox 🦉", "👨‍👩‍👧 family", "<br/>Pip<here>", "back\\slash\x00\x1b[31mred", "e.g. 3,000 km/h",
    "x" * 200, "Pip\r\nwaves\n", "<extra_id_0> Pip <extra_id_299>", "Pip</s>Bo", "<pad>", "▁Pip ▁▁Bo",
)  # fmt: skip
SPECIAL = ("<extra_id_", "</s>", "<pad>", "▁")  # a SentencePiece model does not know them in text


@pytest.fixture(scope="module", params=[False, True], ids=["unknown", "bytes"])
def folder(request, tmp_path_factory):
    """spiece.model as umT5's is made (nmt_nfkc), and tokenizer/ as diffusers saves it."""
    path, model = tmp_path_factory.mktemp("tokenizer"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=450, model_type="unigram",
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1,
        minloglevel=2, character_coverage=1.0, byte_fallback=request.param,
    )  # fmt: skip
    (path / "spiece.model").write_bytes(model.getvalue())
    made = transformers.T5TokenizerFast.from_pretrained(path, extra_ids=300)
    made.save_pretrained(path / "tokenizer")
    return path


@pytest.fixture(scope="module")
def reference(folder):
    return transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")


def row(tokenizer, text, length=512):
    ids, mask = tokenizer.encode([text], length)
    return ids[0][mask[0]].tolist()


def test_cleaning(record_parity):
    for text in STRINGS:
        assert clean(text) == pipeline_wan.prompt_clean(text), text
        record_parity("cleaning of captions", "diffusers' cleaning for Wan", 0, 0)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=40) | st.text("&;ampltgquonbs#39 \n\t\xa0\u3000â€™œÃ©“”…ﬁ<>", max_size=30))
def test_cleaning_of_anything(text):
    assert clean(text) == pipeline_wan.prompt_clean(text)


def test_ids_of_the_json_file(folder, reference, record_parity):
    tokenizer = Tokenizer(folder / "tokenizer" / "tokenizer.json")
    assert tokenizer.vocab_size == len(reference)
    for text in STRINGS:
        assert row(tokenizer, text) == reference(pipeline_wan.prompt_clean(text)).input_ids, text
        record_parity("token ids, tokenizer.json", "transformers `T5Tokenizer`", 0, 0)
        kept = [i for i in row(tokenizer, text) if i != 2]
        assert tokenizer.decode(kept) == reference.decode(kept, skip_special_tokens=True)


def test_ids_of_the_sentencepiece_file(folder, reference, record_parity):
    """Equal, but for quoted special tokens and marks and, with byte pieces, unknown characters."""
    tokenizer, equal = Tokenizer(find_tokenizer(folder)), 0
    assert tokenizer.vocab_size == len(reference) - 300
    spells_bytes = tokenizer._vocabulary.find("<0x00>") is not None
    for text in STRINGS:
        theirs = reference(pipeline_wan.prompt_clean(text)).input_ids
        if "▁" in text:  # may or may not be the same
            continue
        if any(token in text for token in SPECIAL) or (spells_bytes and 2 in theirs):
            assert row(tokenizer, text) != theirs
        else:
            assert row(tokenizer, text) == theirs, text
            record_parity("token ids, SentencePiece model", "transformers `T5Tokenizer`", 0, 0)
            equal += 1
    assert equal > len(STRINGS) / 2


def test_padding_and_mask(folder, reference):
    """The whole arrays as the pipeline asks for them, of captions that need no cut."""
    texts = [pipeline_wan.prompt_clean(t) for t in STRINGS if len(t) < 60]
    theirs = reference(texts, padding="max_length", max_length=64, truncation=True)
    ids, mask = Tokenizer(folder / "tokenizer" / "tokenizer.json").encode(texts, 64)
    np.testing.assert_array_equal(ids, theirs["input_ids"])
    np.testing.assert_array_equal(mask, np.array(theirs["attention_mask"], bool))


def test_every_way_of_making_the_json_file(folder, tmp_path):
    """The converter's own file, and a file that has been saved after use with truncation."""
    from transformers.convert_slow_tokenizer import T5Converter

    class Slow:
        vocab_file, _extra_ids = str(folder / "spiece.model"), 300
        convert_tokens_to_ids = staticmethod(lambda token: {"</s>": 1}[token])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that bytes are not spelled
        converted = T5Converter(Slow()).converted()
    converted.enable_truncation(8)
    converted.enable_padding(length=99, pad_id=0, pad_token="<pad>")
    converted.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer(find_tokenizer(tmp_path))
    shutil.copy(folder / "tokenizer" / "tokenizer.json", tmp_path / "other.json")
    other = Tokenizer(Path(tmp_path / "other.json"))
    assert ours.vocab_size == other.vocab_size
    for text in STRINGS:
        if not any(token in text for token in SPECIAL):
            assert row(ours, text) == row(other, text), text
