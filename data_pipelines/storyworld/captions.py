"""Captions of a story: attributes once, names ever after.

A subject is described (colour, species, accessory, name) in the chunk that first shows it and a
place (kind, toponym) in the chunk that first reaches it; later captions use the name and the
toponym only, so what a returning subject looks like is known from the video alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np

from data_pipelines.storyworld import wordings as tables
from data_pipelines.storyworld.world import (
    ACCESSORIES,
    COLOURS,
    NAMES,
    PLACES,
    SPECIES,
    TOPONYMS,
    WEATHERS,
    ChunkPlan,
    Story,
    Subject,
)

MAX_WORDS = 25  # with the time stamp 28
_CHOICE = re.compile(r"\[([^\]]*)\]")
DESCRIPTIONS = (
    "{a} {colour} {species} [named|called] {name}{accessory}",
    "a [little|small|cheerful] {colour} {species} [named|called] {name}{accessory}",
)


def expand(template: str) -> list[str]:
    """Every string a template stands for, slots left in place."""
    parts = _CHOICE.split(template)
    return [
        "".join(c)
        for c in itertools.product(*(p.split("|") if i % 2 else (p,) for i, p in enumerate(parts)))
    ]


def wordings(kind: str) -> tuple[str, ...]:
    """All distinct wordings of a sentence kind (a key of `wordings.TEMPLATES`)."""
    return tuple(dict.fromkeys(w for t in tables.TEMPLATES[kind] for w in expand(t)))


def time_stamp(chunk: int) -> str:
    """Inclusive seconds of a 0-based chunk in the paper's format, "(04s - 07s)"."""
    return f"({4 * chunk:02d}s - {4 * chunk + 3:02d}s)"


def _expand_choices(rng: np.random.Generator, template: str) -> str:
    return _CHOICE.sub(lambda m: str(rng.choice(m[1].split("|"))), template)


def _choose(rng: np.random.Generator, options) -> str:
    return str(options[int(rng.integers(len(options)))])


def describe(rng: np.random.Generator, subject: Subject) -> str:
    """ "a red fox named Pip with a scarf": every attribute and the name."""
    wearing = _expand_choices(rng, f" [with|wearing] a {subject.accessory}")
    text = _expand_choices(rng, _choose(rng, DESCRIPTIONS))
    return text.format(
        a="an" if subject.colour[0] in "aeiou" else "a",
        colour=subject.colour,
        species=subject.species,
        name=subject.name,
        accessory="" if subject.accessory == "none" else wearing,
    )


def _side(sign: int) -> str:
    return "left" if sign < 0 else "right"


def _kind(chunk: ChunkPlan, first: bool) -> str:
    """Returns the key of the sentence templates for a chunk."""
    present = [b for b in chunk.actions if not b.left_behind]
    behind = "_behind" if len(present) < len(chunk.actions) else ""
    arriving = [b for b in present if b.enter]
    leaving = [b for b in present if b.leave]
    if first:
        return "open"
    if chunk.travel:
        if any(b.follows for b in present):
            return "travel_follow"
        return ("travel_meet" if present else "travel_empty") + behind
    if not present:
        return "empty"
    if len(present) == 1:
        if arriving:
            return "meet" if chunk.introduced else "return"
        return "stay_leave" if leaving else "stay"
    if arriving:
        return "join_leave" if leaving else "join"
    return ("pair", "pair_leave", "pair_leave_both")[len(leaving)]


def _slots(rng: np.random.Generator, story: Story, chunk: ChunkPlan) -> dict[str, str]:
    place = story.places[chunk.place]
    present = [b for b in chunk.actions if not b.left_behind]
    behind = [b for b in chunk.actions if b.left_behind]
    arriving = [b for b in present if b.enter or (chunk.travel and not b.follows)]
    leaving = [b for b in present if b.leave]
    order = [
        b for b in present if b not in arriving
    ] + arriving  # those already there are named first
    names = [story.subjects[b.subject].name for b in order]
    if behind:
        names.insert(0, " and ".join(story.subjects[b.subject].name for b in behind))
    verbs = [_choose(rng, tables.ACTION_PHRASES[b.action]) for b in order]
    new = order[-1] if order else None
    who = ""
    if new is not None:
        subject = story.subjects[new.subject]
        who = describe(rng, subject) if new.subject in chunk.introduced else subject.name
    described = place.toponym
    if chunk.place_introduced:
        described += ", " + _choose(rng, tables.PLACE_PHRASES[place.kind])
    entering = next((b.enter for b in present if b.enter), 0)
    slots = dict(
        who=who,
        n=names[0] if names else "",
        m=names[1] if len(names) > 1 else "",
        v=verbs[0] if verbs else "",
        w=verbs[1] if len(verbs) > 1 else "",
        t=place.toponym,
        place=described,
        to=("back to " if chunk.place_returned else "to ") + described,
        side=_side(chunk.travel or entering),
        pan=_side(1 if chunk.camera == "pan right" else -1),
        out=_side(leaving[0].leave) if leaving else "",
        leaver=story.subjects[leaving[0].subject].name if leaving else "",
        light=_choose(rng, tables.WEATHER_PHRASES[chunk.weather]),
        change=_choose(rng, tables.WEATHER_CHANGES[chunk.weather]),
        ambient=_choose(rng, tables.AMBIENT),
    )
    return slots


def _tails(rng: np.random.Generator, chunk: ChunkPlan, first: bool) -> list[str]:
    """Clauses that may follow, the more telling first."""
    tails = []
    if chunk.weather != chunk.weather_before:
        tails.append("weather_change")
    if chunk.camera != "hold" and not chunk.travel:
        kind = {"pan left": "pan", "pan right": "pan", "return": "return_camera"}
        tails.append(kind.get(chunk.camera, chunk.camera))
    out = [_expand_choices(rng, _choose(rng, tables.TEMPLATES[t])) for t in tails]
    if not out and not first and rng.random() < 0.2:
        out.append("{light}")
    return out


def caption(rng: np.random.Generator, story: Story, index: int) -> str:
    """Caption of the 0-based chunk `index`, at most MAX_WORDS words and a time stamp."""
    chunk = story.chunks[index]
    template = tables.TEMPLATES[_kind(chunk, index == 0)]
    while True:
        slots = _slots(rng, story, chunk)
        text = _expand_choices(rng, _choose(rng, template)).format(**slots)
        if len(text.split()) <= MAX_WORDS:
            break
    for tail in _tails(rng, chunk, index == 0):
        longer = text + ", " + tail.format(**slots)
        if len(longer.split()) <= MAX_WORDS:
            text = longer
    return f"{text[0].upper()}{text[1:]} {time_stamp(index)}."


def standalone(rng: np.random.Generator, story: Story, index: int, light: bool = True) -> str:
    """Describes the subjects and the place of the 0-based chunk `index`, without any action.

    Unlike a caption of the story it needs no chunk before it to be understood: for training without history.
    """
    chunk = story.chunks[index]
    place = story.places[chunk.place]
    cast = [describe(rng, story.subjects[s]) for s in chunk.subjects] or ["nobody"]
    text = (
        f"{' and '.join(cast)} at {place.toponym}, {_choose(rng, tables.PLACE_PHRASES[place.kind])}"
    )
    if light:
        text += f", {_choose(rng, tables.WEATHER_PHRASES[chunk.weather])}"
    return f"{text[0].upper()}{text[1:]}."


def with_captions(story: Story, rng: np.random.Generator) -> Story:
    """The story with one caption per chunk."""
    lines = tuple(caption(rng, story, i) for i in range(story.n_chunks))
    return dataclasses.replace(story, captions=lines)


_WEATHER_WORDS = {
    "morning": ("morning",),
    "sunset": ("sunset",),
    "overcast": ("overcast",),
    "rain": ("rain",),
    "snow": ("snow",),
    "night": ("night", "moonlit"),
}


def _matches(text: str, words: dict[str, tuple[str, ...]]) -> set[str]:
    return {
        k
        for k, forms in words.items()
        if any(re.search(rf"\b{re.escape(f)}\b", text) for f in forms)
    }


def mentions(text: str) -> dict[str, set[str]]:
    """Returns the words of the vocabulary that a caption names.

    Sets under the keys names, toponyms, species, colours, accessories, places and weathers.
    """

    def literal(words) -> dict[str, tuple[str, ...]]:
        return {w: (w,) for w in words if w != "none"}

    toponyms = _matches(text, literal(TOPONYMS))
    remainder = text
    for toponym in toponyms:
        remainder = remainder.replace(toponym, " ")
    lowercase = remainder.lower()
    return {
        "names": _matches(remainder, literal(NAMES)),
        "toponyms": toponyms,
        "species": _matches(lowercase, literal(SPECIES)),
        "colours": _matches(lowercase, literal(COLOURS)),
        "accessories": _matches(lowercase, literal(ACCESSORIES)),
        "places": _matches(lowercase, literal(PLACES)),
        "weathers": _matches(lowercase, {w: _WEATHER_WORDS[w] for w in WEATHERS}),
    }
