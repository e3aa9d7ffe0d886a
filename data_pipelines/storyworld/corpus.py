"""The captions of many stories as text, and the SentencePiece vocabulary learned from them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from bvjax.errors import UserError
from bvjax.files import write_atomic
from bvjax.story import split_times
from bvjax.tokenizer import EOS_ID, MASK_PIECE, PAD_ID, clean, words
from data_pipelines.storyworld.plan import make_story

UNK_ID = 2
# 256 byte pieces stand for characters that the captions never have; a small vocabulary has no
# room for them and sends such characters to the unknown piece.
BYTE_FALLBACK_FROM = 512


def caption_corpus(seeds: Iterable[int], split: str) -> list[str]:
    """All captions of the stories with these seeds, in order, without their time stamps."""
    return [
        split_times(caption)[0] for seed in seeds for caption in make_story(seed, split).captions
    ]


def train_tokenizer(captions: Sequence[str], out_model_path: str | Path, vocab_size: int) -> int:
    """Trains a unigram model of at most `vocab_size` pieces and writes it, whole or not at all.

    Piece ids follow T5: 0 pad, 1 end of sentence, 2 unknown, no beginning; then `<mask>` and, in
    a vocabulary of BYTE_FALLBACK_FROM pieces or more, the bytes.  Case is folded, as captions of a
    person may differ in it.  The same captions give the same file.  A corpus of few different words
    gives fewer pieces than asked for.

    Returns:
        The number of pieces.

    Raises:
        UserError: the captions cannot make a vocabulary of that size.
    """
    texts = [clean(caption) for caption in captions]
    # Only strings with more than one continuation are candidates for a piece.  In captions made by
    # a grammar a word like "called" always goes on with a space; alone on a line it also ends.
    texts += sorted(words(texts))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="nmt_nfkc_cf",  # folds case: "Pip" and "pip" are one piece
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            bos_id=-1,
            control_symbols=[MASK_PIECE],
            byte_fallback=vocab_size >= BYTE_FALLBACK_FROM,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"{len(captions)} captions cannot make a tokenizer of {vocab_size} pieces: {error}"
        ) from error
    write_atomic(Path(out_model_path), model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return processor.GetPieceSize()


def write_vocabulary(captions: Iterable[str], path: str | Path) -> None:
    """Writes `vocabulary.txt` of a weights folder: the words of the captions, sorted, one a line."""
    write_atomic(Path(path), "".join(f"{word}\n" for word in sorted(words(captions))).encode())
