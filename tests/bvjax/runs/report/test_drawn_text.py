"""Titles in pictures: any characters, any length."""

import io
import warnings

import numpy as np
import PIL.Image
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bvjax.runs.report import drawn_text, report_picture
from tests.bvjax.runs.report.test_drift_report import clip, make_report


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """Matplotlib warns of every glyph that is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    "title",
    [
        "costs $5 and $\\frac$",
        "狐狸的一天 🦊👩\u200d🚀",
        "x" * 3000,
        "a\n\tb \x1b[2J \udcff \x00",
        "$",
        "  ",
    ],
)
def test_every_title_makes_a_picture(title, caplog):
    content = report_picture.draw(make_report(1), [clip()[0]], title, "60 s")
    assert np.asarray(PIL.Image.open(io.BytesIO(content)).convert("L")).std() > 10


def test_characters_that_no_font_has(monkeypatch):
    monkeypatch.setattr(drawn_text, "_installed", lambda: [("Gone", "/no/font.ttf")])
    text, families, lost = drawn_text.drawable("Füchse 狐 🦊\ufe0f\u200d狐\n x")
    assert (text, families, lost) == ("Füchse ? ?? x", ["DejaVu Sans"], "狐🦊")
    monkeypatch.setattr(drawn_text, "_installed", lambda: [("Other", "b"), ("CJK", "a")])
    known = {"a": frozenset("狐"), "b": frozenset("q")}
    plain = drawn_text._characters
    monkeypatch.setattr(drawn_text, "_characters", lambda file: known.get(file) or plain(file))
    assert drawn_text.drawable("a 狐 🦊") == ("a 狐 ?", ["DejaVu Sans", "CJK"], "🦊")


@pytest.mark.parametrize("length", [0, 1, 40, 41, 2000])
def test_long_titles_are_cut_and_what_follows_is_kept(length):
    figure = Figure(figsize=(6, 1))
    canvas = FigureCanvasAgg(figure)
    drawn = figure.suptitle("w" * length, parse_math=False)
    drawn_text.shorten(drawn, canvas, 400.0, " · 60 s")
    assert drawn.get_window_extent(canvas.get_renderer()).width <= 400
    text = drawn.get_text().removesuffix(" · 60 s")
    assert text == "w" * length or (
        text == "w" * (len(text) - 1) + "…" and 20 < len(text) <= length
    )
