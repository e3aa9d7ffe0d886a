"""Captions to token ids: cleaning, vocabulary, end of sentence, padding."""

from __future__ import annotations

import html
import pathlib
import re
from collections.abc import Iterable, Sequence

import ftfy
import numpy as np
from jaxtyping import Bool, Int

from bvjax.errors import UserError
from bvjax.tokenizer_files import EOS_ID, PAD_ID, load_vocabulary

__all__ = ["EOS_ID", "MASK_PIECE", "PAD_ID", "Tokenizer", "clean", "unknown_words", "words"]

MASK_PIECE = "<mask>"  # a control piece: text never encodes to it, only pre-training uses it

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_POSSESSIVE = re.compile(r"['’]s$")


def clean(text: str) -> str:
    """Wan's cleaning of captions; case is kept.

    Mis-decoded characters are repaired (ftfy: "donâ€™t" to "don't"; curly quotes become straight
    and characters composed, too), HTML entities are undone twice, white space is stripped and
    every run of it becomes one space.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


class Tokenizer:
    """A unigram vocabulary with the T5 conventions: pad 0, end of sentence 1 after each caption.

    Can be pickled (the vocabulary travels by value).
    """

    def __init__(self, file: str | pathlib.Path):
        """Loads a SentencePiece model or a `tokenizer.json`, see `bvjax.tokenizer_files`.

        Raises `UserError` when it is missing, damaged or of another kind.
        """
        self._vocabulary = load_vocabulary(file)

    @property
    def vocab_size(self) -> int:
        """Number of pieces; the embedding table has at least as many rows."""
        return self._vocabulary.size

    @property
    def mask_id(self) -> int | None:
        """Id of the piece that hides a token in pre-training; None if the model has no such."""
        return self._vocabulary.find(MASK_PIECE)

    def encode(
        self, captions: Sequence[str], max_length: int, names: Sequence[str] | None = None
    ) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
        """Ids and mask, both [n, max_length]: cleaned caption, end of sentence, pads.

        Args:
            names: what messages call each caption; by default "caption 1", "caption 2", ...

        Raises `UserError` for a caption of more than `max_length` tokens, the end of sentence
        counted.  Wan's own pipelines cut such a caption to `max_length` without a word.
        """
        pieces = [self._pieces(caption) for caption in captions]
        if names is None:
            names = [f"caption {number}" for number in range(1, len(pieces) + 1)]
        for name, tokens in zip(names, pieces, strict=True):
            if len(tokens) > max_length:
                raise UserError(
                    f"{name} has {len(tokens)} tokens, the limit is {max_length}: shorten it"
                )
        lengths = np.array([len(tokens) for tokens in pieces], np.int32)
        mask = np.arange(max_length) < lengths[:, None]
        ids = np.full(mask.shape, PAD_ID, np.int32)
        ids[mask] = np.fromiter((i for tokens in pieces for i in tokens), np.int32)
        return ids, mask

    def count(self, caption: str) -> int:
        """Tokens of a caption, the end of sentence included."""
        return len(self._pieces(caption))

    def _pieces(self, caption: str) -> list[int]:
        return self._vocabulary.encode(clean(caption))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of one row of ids; pads and the end of sentence vanish."""
        return self._vocabulary.decode(ids)


def words(captions: Iterable[str]) -> set[str]:
    """The words of the cleaned captions: lower case, possessive 's cut off."""
    return {
        _POSSESSIVE.sub("", word)
        for caption in captions
        for word in _WORD.findall(clean(caption).lower())
    }


def unknown_words(captions: Iterable[str], known: set[str]) -> list[str]:
    """Words of `captions` that are not in `known`, sorted.

    `known` is what the model was trained on: the lines of `vocabulary.txt` beside its weights
    (`words` of the training captions, one a line, sorted).
    """
    return sorted(words(captions) - known)
