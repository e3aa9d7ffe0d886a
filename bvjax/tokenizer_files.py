"""The two files a T5 vocabulary is published as: a SentencePiece model, and `tokenizer.json`.

Both hold the same unigram vocabulary; transformers makes the second from the first.  They differ
in characters that the vocabulary lacks, where a SentencePiece model with byte pieces spells bytes
and transformers writes "unknown", and in captions that quote a special token (`</s>`,
`<extra_id_0>`) or the mark `▁`, which only the second takes for what they stand for.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import sentencepiece

from bvjax.errors import UserError
from bvjax.files import parse_json

PAD_ID = 0
EOS_ID = 1

# The first one found is taken.  Of the two that umT5 is published with, tokenizer.json: the original
# pipeline and diffusers' both read that one.
NAMES = ("tokenizer.model", "tokenizer.json", "spiece.model")
# Of a weights folder; of a diffusers folder; of the folder in which Wan publishes its own layout.
FOLDERS = (".", "tokenizer", "google/umt5-xxl")


class Vocabulary(Protocol):
    """The methods that a `Tokenizer` needs of its file; can be pickled."""

    size: int  # ids are below it, those of added tokens too

    def encode(self, text: str) -> list[int]:
        """Ids of cleaned text, the end of sentence included."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text; pads and the end of sentence vanish."""

    def find(self, piece: str) -> int | None:
        """Id of a piece, None if there is no such."""


def find_tokenizer(folder: str | pathlib.Path) -> pathlib.Path:
    """The tokenizer file of a weights folder or of a published checkpoint in Wan's or diffusers' form.

    Raises `UserError` when there is none.
    """
    folder = pathlib.Path(folder)
    for path in (folder / inner / name for inner in FOLDERS for name in NAMES):
        if path.is_file():
            return path
    inside = ", ".join(FOLDERS[1:])
    raise UserError(f"{folder} has no tokenizer: no {', '.join(NAMES)} there or in {inside}")


def load_vocabulary(path: str | pathlib.Path) -> Vocabulary:
    """Reads a tokenizer file of either kind, told apart by content.

    Raises `UserError` when it is missing, damaged, or not a unigram vocabulary as T5 has it.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the tokenizer model {path}: {error.strerror or error}"
        ) from error
    return read_vocabulary(path, content)


def read_vocabulary(path: pathlib.Path, content: bytes) -> Vocabulary:
    """`load_vocabulary` of the content of a file, or of a part of it, that `path` names."""
    if content.lstrip()[:1] == b"{" or path.suffix == ".json":
        return HuggingFaceVocabulary(path, content)
    return SentencePieceVocabulary(path, content)


class SentencePieceVocabulary:
    """A SentencePiece model."""

    def __init__(self, path: pathlib.Path, content: bytes):
        self._sp = sentencepiece.SentencePieceProcessor()
        try:
            whole = bool(content) and self._sp.LoadFromSerializedProto(content)
        except (RuntimeError, UnicodeDecodeError):  # the second of a message that quotes the file
            whole = False
        if not whole:
            raise UserError(
                f"{path} is not a SentencePiece model: it is damaged or cut short; copy it again"
            )
        _check_ids(path, self._sp.pad_id(), self._sp.eos_id())
        self.size = self._sp.GetPieceSize()
        try:
            self._sp.IdToPiece(list(range(self.size)))
        except UnicodeDecodeError:
            raise UserError(
                f"{path} is damaged: it has pieces that are not text in UTF-8"
            ) from None

    def encode(self, text: str) -> list[int]:
        return [*self._sp.EncodeAsIds(text), EOS_ID]

    def decode(self, ids: Sequence[int]) -> str:
        return self._sp.DecodeIds([int(i) for i in ids])

    def find(self, piece: str) -> int | None:
        index = self._sp.PieceToId(piece)
        return None if index == self._sp.unk_id() else index


class HuggingFaceVocabulary:
    """A `tokenizer.json`: normalizer, unigram vocabulary, template that ends with `</s>`."""

    def __init__(self, path: pathlib.Path, content: bytes):
        import tokenizers  # here: only checkpoints of others need it

        damaged = f"{path} is not a tokenizer.json: it is damaged or cut short; copy it again"
        try:
            kind = parse_json(content, str(path))["model"]["type"]
        except (ValueError, KeyError, TypeError):
            raise UserError(damaged) from None
        if kind != "Unigram":
            raise UserError(
                f"{path} holds a {kind} tokenizer; umT5, which captions are encoded with here, has "
                "a Unigram tokenizer"
            )
        self._tokenizer = _called(tokenizers.Tokenizer.from_str, content.decode(), damaged)
        # The file may remember how it was last used; we cut nothing and pad ourselves.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        _check_ids(path, *map(self._tokenizer.token_to_id, ("<pad>", "</s>")))
        if _called(self._tokenizer.encode, "", damaged).ids != [EOS_ID]:
            raise UserError(f"{path} does not end captions with </s>, as a T5 tokenizer does")
        self.size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self._path = str(path)

    def encode(self, text: str) -> list[int]:
        return _called(self._tokenizer.encode, text, f"{self._path} cannot encode {text!r}").ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def find(self, piece: str) -> int | None:
        return self._tokenizer.token_to_id(piece)


def _called(function: Callable[[str], Any], text: str, refusal: str) -> Any:
    """`function(text)` of the tokenizers library; `UserError` with `refusal` where it fails."""
    try:
        with _without_stderr():
            return function(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # it raises Exception itself, and panics are not even that
        raise UserError(refusal) from None


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """The process's stderr goes nowhere: Rust describes a panic there at length."""
    try:
        stderr_copy = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)


def _check_ids(path: pathlib.Path, pad: int | None, eos: int | None) -> None:
    if (pad, eos) != (PAD_ID, EOS_ID):
        raise UserError(
            f"{path} has pad id {pad} and end-of-sentence id {eos};"
            f" a T5 tokenizer has {PAD_ID} and {EOS_ID}"
        )
