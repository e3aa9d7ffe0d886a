"""The report in a real browser, where there is one: curves are drawn, sorting sorts, no complaints."""

import re
import shutil
import subprocess

import pytest

from bvjax.lvbench.report import page
from tests.bvjax.lvbench.made_up_results import HOSTILE, made_up, stills

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
    "--window-size=1300,3000",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here"),
]


def look_at(folder, page, fragment=""):
    """The document after its script has run, and what the console was told."""
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER,
            *FLAGS,
            f"--user-data-dir={folder}/profile",
            "--dump-dom",
            path.as_uri() + fragment,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_curves_are_drawn_and_the_table_is_sorted(tmp_path):
    results = made_up(
        4,
        segments=6,
        suites=("official", "paper"),
        names=[f"{HOSTILE} {i}.mp4" for i in range(4)],
        missing=[(2, "paper/clarity")],
        prompt=HOSTILE,
    )
    text = page.html(results, stills(results, width=32))
    document, complaints = look_at(tmp_path, text, "#sort=paper/clarity:ascending")
    assert complaints == []
    drift = [video["scores"]["paper/clarity"]["vde"] for video in results["videos"]]
    expected = sorted((v is None, v or 0.0, i) for i, v in enumerate(drift))  # missing ones last
    rows = re.findall(r'<a class="name" [^>]*>.*? (\d)\.mp4</a>', document)
    assert rows == [str(i) for *_, i in expected]
    heads = re.findall(r'<th [^>]*data-key="paper/clarity"[^>]*>', document)
    assert len(heads) == 1 and 'aria-sort="ascending"' in heads[0]
    # Each of the 4 x 10 curves but one, whose first score is 0, has a line between two chunks.
    curves = re.findall(r'<g style="[^"]*" data-metric="([^"]+)">(.*?)</g>', document)
    assert len(curves) == 39
    assert all(lines.count('class="curve"') == 5 for _, lines in curves)
    assert document.count("<img ") == 4 * 6 and 'class="body waiting' not in document
    assert "<img src=x" not in document.partition("<script")[0]


def test_a_changed_script_is_not_run_and_the_console_says_so(tmp_path):
    text = page.html(made_up(1, segments=3), {})
    changed = text.replace('"use strict";', '"use strict"; document.title = "taken";')
    assert changed != text
    document, complaints = look_at(tmp_path, changed)
    assert complaints and "<title>taken" not in document and 'class="curve"' not in document
