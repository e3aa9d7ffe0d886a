"""Captions: one for each chunk, from a file or a model that sees keyframes, then all of a take made one story.

The first prompt is that of the paper's appendix A.3, asked chunk after chunk with the description of the one before;
the second pass (A.6) gets all captions of a take and returns as many, of one story.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bvjax.errors import UserError
from bvjax.files import parse_json, read_json_lines, write_atomic
from bvjax.overrides import to_dict
from bvjax.plain_text import is_blank, whole_text
from data_pipelines.curation.chunks import split_take
from data_pipelines.curation.clips import chunk_clip
from data_pipelines.curation.endpoint import (
    Answer,
    Endpoint,
    Part,
    picture_part,
    text_part,
    video_part,
)
from data_pipelines.curation.rows import Row, is_kept
from data_pipelines.curation.settings import Captions, Settings

LONGEST = 4000  # characters of a caption
WANTED = "captions_wanted.jsonl"
DESCRIBE = """\
Act as a professional video content analyst. Describe a given video frame in English.

The previous frame was described as: "{previous}". Use this as context to ensure temporal coherence.

Write a single, descriptive paragraph that:
- Identifies the main subject, their specific actions, and expressions.
- Describes the environment and background, including setting and lighting.
- Highlights the cinematic quality, such as composition, color palette, and atmosphere (e.g., tense, serene, spectacular).

Output must be one coherent paragraph, written in natural language prose, without bullet points or numbered lists.

Return the paragraph description of the current frame.
"""
SEVERAL = (
    "The {count} pictures are frames of one short clip, in order: describe the clip as a whole.\n"
)
ALIGN = """\
These are descriptions of consecutive clips of one video shot, written one at a time. Rewrite them as one coherent \
story: call the same subject and place by the same name in all of them, say what changes from clip to clip, and add \
nothing that is not in them. Each must still be understood beside its own clip.

Return a JSON list of exactly {count} strings, one for each description, in the same order, and nothing else.

{captions}
"""
_UNTIDY = "its answer is {what}"


# ---- first pass -------------------------------------------------------------------------------------
def caption_rows(rows: list[Row], settings: Settings, root: Path) -> list[Row]:
    """Fills `caption` of the chunks of a film's takes; adds `tokens` to takes that a model described.

    A take is cut where chunks have no caption in the file. Raises `UserError` where there is neither file nor endpoint,
    `WorkError` for an endpoint that fails.
    """
    captions = settings.captions
    given = read_file(captions.file) if captions.file else {}
    out: list[Row] = []
    for row in rows:
        if not is_kept(row):
            out.append(row)
        elif captions.file:
            out += _from_file(row, given, settings)
        elif captions.endpoint:
            out.append(describe(row, Endpoint(captions, root)))
        else:
            raise UserError("there is neither captions.file nor captions.endpoint")
    return out


def inputs(rows: list[Row], settings: Settings) -> Any:
    """Everything that captions depend on: the file's content for these chunks, or the model and the prompt."""
    captions = settings.captions
    if captions.file:
        given = read_file(captions.file)
        return [given.get(c["id"]) for row in rows if is_kept(row) for c in row["chunks"]]
    keys = ("endpoint", "model", "video", "most_tokens")
    return [DESCRIBE, SEVERAL, {key: to_dict(captions)[key] for key in keys}]


def read_file(path: str) -> dict[str, str]:
    """{chunk: caption} of a file of JSON Lines, {"id", "caption"}; those without text are left out.

    It is asked for once a film, and read once unless it changes. Raises `UserError` for a line that is not such.
    """
    try:
        state = Path(path).stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read captions.file {path}: {reason}") from None
    return _read_file(path, state.st_size, state.st_mtime_ns, state.st_ino)


@functools.lru_cache(maxsize=1)
def _read_file(path: str, *state: int) -> dict[str, str]:
    found = {}
    for number, content in read_json_lines(path, "the captions"):
        where = f"the captions {path}, line {number}"
        if not isinstance(content, dict) or not isinstance(content.get("id"), str):
            raise UserError(f'{where} is not {{"id": ..., "caption": ...}}')
        caption = content.get("caption", "")
        if not isinstance(caption, str):
            raise UserError(f"{where}: the caption is not text")
        if not is_blank(caption):
            found[content["id"]] = one_line(caption, where)
    return found


def _from_file(row: Row, given: Mapping[str, str], settings: Settings) -> list[Row]:
    filled = [{**c, "caption": given.get(c["id"], "")} for c in row["chunks"]]
    good = [bool(c["caption"]) for c in filled]
    row = {**row, "chunks": filled, "captioned": "file"}
    return split_take(
        row,
        good,
        "captions",
        "no caption",
        "chunks have no caption in the file",
        settings.chunks.least,
    )


def describe(row: Row, endpoint: Endpoint) -> Row:
    """A take with the captions of a model; raises `WorkError`."""
    filled, previous, answers = [], "", []
    for chunk in row["chunks"]:
        parts = message(row, chunk, previous, endpoint)
        answer = endpoint.ask(parts, accept_caption)
        answers.append(answer)
        previous = answer.text
        filled.append({**chunk, "caption": answer.text})
    return {**row, "chunks": filled, "captioned": "model", "tokens": tokens_of(answers)}


def message(row: Row, chunk: Row, previous: str, endpoint: Endpoint) -> list[Part]:
    """The parts of the request for a chunk: the prompt, then its keyframes or the clip itself."""
    prompt = DESCRIBE.format(previous=previous or "nothing, this is the first")
    if endpoint.settings.video:
        return [text_part(prompt), video_part(chunk_clip(row, chunk, endpoint.root).read_bytes())]
    names = chunk["keyframes"]
    if len(names) > 1:
        prompt += SEVERAL.format(count=len(names))
    return [text_part(prompt), *(picture_part((endpoint.root / n).read_bytes()) for n in names)]


def accept_caption(text: str) -> str:
    """A model's caption as one line; raises `UserError` for what is none."""
    text = text.strip().strip('"').strip()
    if is_blank(text):
        raise UserError(_UNTIDY.format(what="empty"))
    if len(text) > LONGEST:
        raise UserError(_UNTIDY.format(what=f"of {len(text)} characters, more than {LONGEST}"))
    return one_line(text, "the answer")


def one_line(text: str, where: str) -> str:
    """A caption without line breaks; raises `UserError` for half characters."""
    return " ".join(whole_text(text, where).split())


# ---- second pass ------------------------------------------------------------------------------------
def align_rows(rows: list[Row], settings: Settings, root: Path) -> list[Row]:
    """Replaces the captions of takes that a model described by those of one story, and keeps the first as `alone`.

    Where the answers cannot be used, the captions stay as they are and `aligned` says why. Raises `WorkError`.
    """
    captions = settings.captions
    if not (captions.align and captions.endpoint) or captions.file:
        return rows
    endpoint = Endpoint(captions, root)
    return [
        align(row, endpoint) if is_kept(row) and row.get("captioned") == "model" else row
        for row in rows
    ]


def align_inputs(settings: Settings) -> Any:
    """Everything that the second pass depends on."""
    captions = settings.captions
    if not (captions.align and captions.endpoint) or captions.file:
        return None
    return [ALIGN, captions.endpoint, captions.model, captions.most_tokens]


def align(row: Row, endpoint: Endpoint) -> Row:
    """See `align_rows`."""
    chunks = row["chunks"]
    if len(chunks) < 2:
        return {**row, "aligned": "one chunk is a story"}
    numbered = "\n".join(f"{i}. {c['caption']}" for i, c in enumerate(chunks, start=1))
    prompt = ALIGN.format(count=len(chunks), captions=numbered)
    answers, why = [], ""
    for attempt in range(3):
        answer = endpoint.ask([text_part(prompt)], accept_caption_list, attempt)
        answers.append(answer)
        try:
            story = caption_list(answer.text, len(chunks))
        except UserError as error:
            why = str(error)
            continue
        told = [
            {**c, "alone": c["caption"], "caption": s} for c, s in zip(chunks, story, strict=True)
        ]
        return {
            **row,
            "chunks": told,
            "aligned": "",
            "tokens": tokens_of(answers, row.get("tokens")),
        }
    return {
        **row,
        "aligned": f"not aligned: {why}",
        "tokens": tokens_of(answers, row.get("tokens")),
    }


def accept_caption_list(text: str) -> str:
    """Whatever is not empty: what is in it is looked at by `caption_list`."""
    if is_blank(text):
        raise UserError(_UNTIDY.format(what="empty"))
    return text


def caption_list(text: str, count: int) -> list[str]:
    """The captions in a model's list, which may stand in a fence; raises `UserError` unless there are `count`."""
    start, stop = text.find("["), text.rfind("]")
    if start < 0 or stop < start:
        raise UserError("the answer has no list")
    value = parse_json(text[start : stop + 1], "the answer")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError("the answer is not a list of strings")
    if len(value) != count:
        raise UserError(f"the answer has {len(value)} captions, not {count}")
    return [accept_caption(item) for item in value]


def tokens_of(answers: Sequence[Answer], before: Mapping[str, int] | None = None) -> dict[str, int]:
    """Tokens of a take's requests; `paid` are those of this machine's first time, which were not in the cache."""
    counts = dict(before or {"input": 0, "output": 0, "requests": 0})
    for answer in answers:
        counts["input"] += answer.input_tokens
        counts["output"] += answer.output_tokens
        counts["requests"] += 1
    return counts


# ---- what is wanted, and what would be asked ----------------------------------------------------------
def write_wanted(rows: Sequence[Row], root: Path) -> int:
    """Writes ROOT/captions_wanted.jsonl, to be filled in by hand: a line for each chunk; returns how many."""
    lines = [
        json.dumps({"id": c["id"], "caption": "", "keyframes": c["keyframes"]})
        for row in rows
        if is_kept(row)
        for c in row["chunks"]
    ]
    write_atomic(root / WANTED, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def dry_run(rows: Sequence[Row], captions: Captions, root: Path) -> list[dict[str, Any]]:
    """The requests of the first pass as they would be sent, pictures by their size; nothing is sent."""
    endpoint = Endpoint(captions, root)
    shown = []
    for row in rows:
        previous = ""
        for chunk in row["chunks"] if is_kept(row) else ():
            parts = [_short(part) for part in message(row, chunk, previous, endpoint)]
            shown.append({"id": chunk["id"], **endpoint.request(parts, captions.model)})
            previous = "{the description of the chunk before}"
    return shown


def _short(part: Part) -> Part:
    kind = part["type"]
    if kind == "text":
        return part
    head, _, content = part[kind]["url"].partition(",")
    return {"type": kind, kind: {"url": f"{head},... ({len(content)} characters)"}}
