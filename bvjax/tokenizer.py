"""Captions to token ids: cleaning, SentencePiece, end of sentence, padding."""

from __future__ import annotations

import html
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int

from bvjax.errors import UserError

PAD_ID = 0
EOS_ID = 1
MASK_PIECE = "<mask>"  # a control piece: text never encodes to it, only pre-training uses it

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_POSSESSIVE = re.compile(r"['’]s$")


def clean(text: str) -> str:
    """Wan's "whitespace" cleaning: HTML entities undone twice, runs of white space to one space.

    Wan first repairs mis-decoded characters with ftfy; that comes with the full-size weights,
    which were trained on such text.  Case is kept.
    """
    return " ".join(html.unescape(html.unescape(text)).split())


class Tokenizer:
    """A SentencePiece model with the T5 conventions: pad 0, end of sentence 1 after each caption.

    Can be pickled (the model travels by value).
    """

    def __init__(self, model_file: str | pathlib.Path):
        """Loads `model_file`; raises `UserError` when it is missing, corrupt or of another kind."""
        path = pathlib.Path(model_file)
        try:
            proto = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read the tokenizer model {path}: {error.strerror or error}"
            ) from error
        self._sp = sentencepiece.SentencePieceProcessor()
        try:
            whole = bool(proto) and self._sp.LoadFromSerializedProto(proto)
        except RuntimeError:
            whole = False
        if not whole:
            raise UserError(
                f"{path} is not a SentencePiece model: it is damaged or cut short; copy it again"
            )
        if (self._sp.pad_id(), self._sp.eos_id()) != (PAD_ID, EOS_ID):
            raise UserError(
                f"{path} has pad id {self._sp.pad_id()} and end-of-sentence id {self._sp.eos_id()};"
                f" a T5 tokenizer has {PAD_ID} and {EOS_ID}"
            )

    @property
    def vocab_size(self) -> int:
        """Number of pieces; the embedding table has at least as many rows."""
        return self._sp.GetPieceSize()

    @property
    def mask_id(self) -> int | None:
        """Id of the piece that hides a token in pre-training; None if the model has no such."""
        index = self._sp.PieceToId(MASK_PIECE)
        return None if index == self._sp.unk_id() else index

    def encode(
        self, captions: Sequence[str], max_length: int
    ) -> tuple[Int[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
        """Ids and mask, both [n, max_length]: cleaned caption, end of sentence, pads.

        Raises `UserError` for a caption of more than `max_length` tokens, the end of sentence
        counted; it is never cut silently.
        """
        pieces = [self._pieces(caption) for caption in captions]
        for number, tokens in enumerate(pieces, start=1):
            if len(tokens) > max_length:
                raise UserError(
                    f"caption {number} has {len(tokens)} tokens, the limit is {max_length}: "
                    "shorten it"
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
        return [*self._sp.EncodeAsIds(clean(caption)), EOS_ID]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of one row of ids; pads and the end of sentence vanish."""
        return self._sp.DecodeIds([int(i) for i in ids])


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
