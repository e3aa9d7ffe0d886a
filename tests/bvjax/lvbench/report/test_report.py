"""The report as a file: all that was measured is in it, escaped, and nothing comes from outside."""

import base64
import hashlib
import html.parser
import json
import re

import pytest

from bvjax.lvbench import formatting
from bvjax.lvbench.report import page, tables
from tests.bvjax.lvbench.made_up_results import HOSTILE, made_up, stills

UNIT = "\N{NO-BREAK SPACE}%"
DASH = "\N{EN DASH}"
SVG = "http://www.w3.org/2000/svg"  # the name of a name space: no browser asks for it


class Page(html.parser.HTMLParser):
    """Elements with their attributes and the text in them, in order."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self._inside = [], [], None
        self.scripts = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append((self.elements[-1][1], data))
        elif self._inside != "style":
            self.texts.append(data)

    def handle_endtag(self, tag):
        self._inside = None

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def hostile():
    """Everything that comes from outside tries to break out of where it is put."""
    results = made_up(
        3,
        segments=4,
        suites=("official", "paper"),
        names=[f"{HOSTILE} {i}.mp4" for i in range(3)],
        failed=[(f"{HOSTILE} short.mp4", f"{HOSTILE} reason")],
        missing=[(1, "official/clarity")],
        prompt=f"{HOSTILE} prompt",
    )
    results["provenance"][HOSTILE] = HOSTILE
    results["config"]["name"] = HOSTILE
    pictures = stills(results, width=16)
    return results, pictures, page.html(results, pictures)


def test_all_videos_failures_and_reasons_are_told_as_they_are(hostile):
    results, _, text = hostile
    page = Page(text)
    for video in results["videos"]:
        assert page.texts.count(video["name"]) == 2 + (
            video["name"] == results["videos"][1]["name"]
        )
    assert f"{HOSTILE} short.mp4" in page.texts and f": {HOSTILE} reason" in page.texts
    assert page.texts.count(f"{HOSTILE} prompt") == 3
    titles = [cell.get("title") for cell in page.all("td")]
    (left_out,) = results["aggregate"]["official/clarity"]["vde"]["excluded"]
    assert left_out["reason"].startswith(f"{HOSTILE} 1.mp4 starts with nothing")
    assert left_out["reason"] in titles
    assert f" {DASH} {left_out['reason']}" in page.texts
    assert page.all("title") and f"LV-Bench: {HOSTILE}" in page.texts


def test_nothing_from_outside_becomes_markup_and_nothing_is_loaded(hostile):
    _, _, text = hostile
    page = Page(text)
    assert [attributes for attributes, _ in page.scripts] == [
        {"type": "application/json", "id": "metrics"},
        {},
    ]
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert re.match("data:image/jpeg;base64,", attributes.get("src", "data:image/jpeg;base64,"))
        assert re.match("#", attributes.get("href", "#"))
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {SVG}
    assert not re.search(r"url\(|@import|\beval\b|new Function", text)
    policy = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    digest = base64.b64encode(hashlib.sha256(page.scripts[1][1].encode()).digest()).decode()
    assert len(policy) == 1 and "default-src 'none'" in policy[0]
    assert f"script-src 'sha256-{digest}'" in policy[0]


def test_pictures_and_scores_are_in_the_page(hostile):
    results, pictures, text = hostile
    page = Page(text)
    embedded = [base64.b64decode(i["src"].partition(",")[2]) for i in page.all("img")]
    order = [v["name"] for v in tables.worst_first(results)]
    assert embedded == [jpeg for name in order for jpeg in pictures[name]]
    plots = [json.loads(d["data-curves"]) for d in page.all("div") if "data-curves" in d]
    names = formatting.ordered(results["metrics"])
    assert len(names) == 10 and names[:2] == ["official/subject", "official/background"]
    by_name = {video["name"]: video for video in results["videos"]}
    for name, plot in zip(order, plots, strict=True):
        expected = [by_name[name]["scores"][metric]["chunks"] for metric in names]
        assert plot["chunks"] == [pytest.approx(chunks, rel=1e-6) for chunks in expected]


def test_the_same_results_give_the_same_page_in_any_order(hostile):
    results, pictures, text = hostile
    turned = {**results, "videos": results["videos"][::-1]}
    assert page.html(turned, dict(reversed(pictures.items()))) == text


def test_a_page_without_pictures_or_without_videos():
    results = made_up(2, segments=3)
    output = Page(page.html(results, {results["videos"][0]["name"]: None}))
    assert not output.all("img") and len(output.all("details")) == 4
    assert "broken" in page.html(made_up(0, failed=[("a.mp4", "broken")]), {})


def test_the_worst_video_is_the_first_and_one_without_scores_the_last():
    results = made_up(3, segments=3)
    for place, drift in enumerate(([1.0, 9.0], [3.0, 5.0], None)):
        for i, metric in enumerate(results["metrics"]):
            scores = results["videos"][place]["scores"][metric]
            scores["vde"] = None if drift is None else drift[min(i, 1)]
    # One metric puts video 0 below video 1, the four others above it.
    ranks = list(tables.mean_ranks(results).values())
    assert ranks == [pytest.approx(1.2), pytest.approx(1.8), None]
    order = [v["name"] for v in tables.worst_first(results)]
    assert order == [v["name"] for v in results["videos"]]


def test_what_moved_is_said_in_words():
    results = made_up(1, segments=8)
    (video,) = results["videos"]
    video.update(frames=32 * 8 + 5, fps=8.0, seconds=32.6)
    curves = {
        "subject": ([0.0, 0.0, 0.0, 0.2, 0.2, 0.2, 0.2, 0.2], (4, 0.0, 0.2)),
        "background": ([0.9] * 8, (None, None, None)),
        "motion": ([1.0, 1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.3], (4, 1.0, 1.1)),
        "clarity": ([51.0, 50.0, 49.0, 50.0, 50.0, 50.0, 28.5, 28.0], (7, 50.0, 28.5)),
    }
    for key, (chunks, moved) in curves.items():
        moved = dict(zip(("chunk", "before", "after"), moved, strict=True))
        video["scores"][f"official/{key}"].update(chunks=chunks, moved=moved)
    video["scores"]["official/aesthetic"]["moved"] = None
    text = page.html(results, {})
    said = re.findall(r"<span>([^<]+ at chunk [^<]+)</span>", text)
    assert said == [
        f"Subject rises from 0 to 0.2000 at chunk 4 (12{DASH}16 s)",
        f"Motion rises by 10{UNIT} at chunk 4 (12{DASH}16 s), later by up to 40{UNIT}",
        f"Clarity falls by 43{UNIT} at chunk 7 (24{DASH}28 s)",
    ]
    (plot,) = [json.loads(d["data-curves"]) for d in Page(text).all("div") if "data-curves" in d]
    assert plot["moved"] == [[3, None], None, [3, 0.1], None, [6, -0.43]]


def test_numbers_are_written_for_people():
    assert [formatting.percent(x) for x in (0.4321, 0.0187, 0.00032, 0.0, None)] == [
        f"43{UNIT}",
        f"1.9{UNIT}",
        f"0.032{UNIT}",
        f"0{UNIT}",
        DASH,
    ]
    assert formatting.percent(-0.4, signed=True) == f"\N{MINUS SIGN}40{UNIT}"
    assert [formatting.number(x) for x in (0.08441, 4.39842, 1234.567, float("nan"))] == [
        "0.0844",
        "4.3984",
        "1,234.57",
        DASH,
    ]
    assert [formatting.duration(x) for x in (7.5, 72, 3671, 0)] == [
        "7.5 s",
        "1:12",
        "1:01:11",
        DASH,
    ]
    assert formatting.chunk_times({"frames": 25, "fps": 0.0}, 2) == [
        f"frames 0{DASH}11",
        f"frames 12{DASH}23",
    ]
    assert formatting.chunk_times({"frames": 25, "fps": 8.0}, 2) == [
        f"0.0{DASH}1.5 s",
        f"1.5{DASH}3.0 s",
    ]


def test_many_pictures_are_made_smaller():
    results = made_up(1, segments=3)
    pictures = stills(results, noise=True)
    assert page._within_budget(pictures, 1 << 20) is pictures
    smaller = page._within_budget(pictures, 1000)
    sizes = lambda result: sum(len(jpeg) for jpegs in result.values() for jpeg in jpegs)
    assert 0 < sizes(smaller) < sizes(pictures) / 2


def test_one_video_has_no_interval_and_no_median():
    text = page.html(made_up(1, suites=("paper",)), {})
    table = text[text.index('<section id="aggregate">') : text.index('<section id="videos">')]
    assert "95 %" not in table and "median" not in table and "at least two videos" not in table
    assert "Is that good?" in table
    head, *rows = (part.count("<td") + part.count("<th scope") for part in table.split("<tr>")[2:])
    assert len(rows) >= 4 and len(set(rows)) == 1
    several = page.html(made_up(2, suites=("paper",)), {})
    assert "95 % interval" in several and "median" in several
