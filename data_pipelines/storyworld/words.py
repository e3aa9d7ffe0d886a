"""The words that the small model knows, as a Markdown list for whoever writes a story."""

from __future__ import annotations

from collections.abc import Iterable

from data_pipelines.storyworld import world
from data_pipelines.storyworld.wordings import ACTION_PHRASES, PLACE_PHRASES, WEATHER_PHRASES


def word_list() -> str:
    """Names, looks, places, lights and phrases, one bullet each; ends with a newline."""
    bullets = {
        "Names": world.NAMES,
        "Animals": world.SPECIES,
        "Colours": world.COLOURS,
        "With": (f"a {thing}" for thing in world.ACCESSORIES if thing != "none"),
        "Place names": world.TOPONYMS,
        "Places": _flatten(PLACE_PHRASES.values()),
        "Light and weather": _flatten(WEATHER_PHRASES.values()),
        "What an animal does": _flatten(ACTION_PHRASES.values()),
    }
    return "".join(f"- **{name}**: {', '.join(words)}.\n" for name, words in bullets.items())


def _flatten(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return [phrase for group in groups for phrase in group]
