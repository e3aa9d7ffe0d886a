"""The page in a browser, with the small model: made, paused, edited, branched, reloaded, and after a restart."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time

import chromium
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.CHROMIUM is None, reason="there is no Chromium"),
]
CAPTIONS = (
    "On a bright morning, a small orange fox called Pip waves hello in Willow Hollow, a grassy meadow.",
    "Pip dances with joy in Willow Hollow.",
    "Pip rides a zeppelin.",
    "Pip sits down and rests.",
)


@contextlib.contextmanager
def studio(runs, port=0):
    """The command, and the address that it tells."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "bvjax", "studio", "--runs", str(runs), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    try:
        for line in process.stdout:
            if found := re.search(r"http://\S+/", line):
                yield found[0]
                break
        else:
            raise AssertionError("the studio did not begin")
    finally:
        process.terminate()
        process.wait(timeout=120)


def state(text, seconds=240):
    return f"document.querySelector('.status')?.textContent.startsWith({text!r})", seconds


def story(runs, name):
    return json.loads((runs / name / "story.json").read_text())["captions"]


def test_a_story_from_the_first_word_to_a_restart(tmp_path):
    runs = tmp_path / "runs"
    with chromium.page(tmp_path / "browser") as page:
        with studio(runs) as address:
            page.open(address)
            page.until("document.querySelector('.empty')")
            page.click("New story")
            page.until("document.querySelector('.captions')")
            page.write("#title", "Pip")
            for number, caption in enumerate(CAPTIONS):
                if number:
                    page.click("Add a caption")
                page.write(".captions textarea", caption, number)
            assert page.until("document.querySelector('.words:not(:empty)')?.textContent") == (
                "The model has never seen: rides, zeppelin."
            )
            marked = page.run("[...document.querySelectorAll('mark')].map((m) => m.textContent)")
            assert marked == ["rides", "zeppelin"]
            page.click("Make it")

            # chunks appear; a caption to come is another while the first are made
            page.until("document.querySelector('.strip .made')", 240)
            page.write(".captions textarea", "Pip hops up and down.", 3)
            page.click("Use these captions")
            page.until("document.querySelector('.toast.good')")
            assert story(runs, "pip") == [*CAPTIONS[:3], "Pip hops up and down."]
            page.click("Pause")
            page.until(*state("Paused"))
            made = page.run("document.querySelectorAll('.strip .made').length")
            assert 1 <= made < 4
            page.click("Go on")
            page.until(*state("Finished: 4 chunks"))
            assert page.until("document.querySelector('video').buffered.length") == 1
            assert page.run("document.querySelector('video').buffered.end(0)") == pytest.approx(
                16.125, abs=0.2
            )
            latency = page.run("studioLatency.map((seen) => seen.seconds)")
            print(f"\nfrom a chunk that is ready to its first picture on screen: {latency} s")

            # what the second chunk looked at, and a branch from it
            page.click("Chunk 2", ".strip")
            seen = "[...document.querySelectorAll('.seen li button')].map((b) => b.ariaLabel)"
            assert page.run(seen) == ["The first frame, first frame", "Chunk 1, just before"]
            page.until(
                "document.querySelectorAll('.curve .dot').length === 16"
            )  # 4 curves, 4 chunks
            page.click("Branch from here")
            page.write("dialog textarea", "Pip waves hello.", 0)
            page.click("Branch", "dialog")
            page.until("location.hash.endsWith('pip-another-way')")
            page.until(*state("Finished: 4 chunks"))
            assert story(runs, "pip-another-way")[1] == "Pip waves hello."
            files = [
                runs / name / "latents" / "chunk_01.npy" for name in ("pip", "pip-another-way")
            ]
            assert os.path.samefile(*files)

            # taken back, and the page opened again
            page.click("Chunk 3", ".strip")
            page.click("Take back to chunk 3")
            page.until("document.querySelectorAll('.strip .made').length === 3")
            page.until("document.querySelector('video').buffered.end(0) < 13", 20)
            page.open(address)
            page.until("document.querySelectorAll('.card').length === 2")
            page.click("Pip, another way")
            page.until("document.querySelectorAll('.strip .made').length === 3")
            assert page.until("document.querySelector('video').buffered.length") == 1
            assert not page.errors

        # the studio ends and begins again: the page comes back by itself
        page.until("document.querySelector('.link.away')", 30)
        with studio(runs, port=int(address.rstrip("/").rpartition(":")[2])):
            page.until("document.querySelector('.link.good')", 60)
            page.until(*state("Stopped after chunk 3 of 4"))
            page.click("Go on")
            page.until(*state("Finished: 4 chunks"))
            page.errors.clear()
            # a version that is deleted, after a question
            page.click("Chunk 4", ".strip")
            page.click("Branch from here")
            page.write("#branch-title", "No good")
            page.click("Branch", "dialog")
            page.until(*state("Finished: 4 chunks"))
            page.until("location.hash.endsWith('no-good')")
            page.until(*state("Finished: 4 chunks"))
            page.click("Delete", ".controls")
            assert page.until("document.querySelector('dialog h2')?.textContent") == (
                "Delete No good?"
            )
            page.click("Delete it for good", "dialog")
            page.until("document.querySelectorAll('.card').length === 2")
            assert not (runs / "no-good").exists() and (runs / "pip").is_dir()
            # two versions side by side, and a browser without Media Source Extensions
            page.open(f"{address}?jpeg#/run/pip/with/pip-another-way")
            page.until("document.querySelectorAll('canvas').length === 2")
            alpha = "getContext('2d').getImageData(99, 99, 1, 1).data[3]"
            page.until(f"[...document.querySelectorAll('canvas')].every((c) => c.{alpha})")
            page.size(390, 844, mobile=True)
            time.sleep(0.5)
            assert page.run("document.documentElement.scrollWidth") <= 390
            assert not page.errors


def test_what_screen_readers_are_told(tmp_path):
    """Every field and button has a name, and the keyboard reaches them."""
    with chromium.page(tmp_path / "browser") as page, studio(tmp_path / "runs") as address:
        page.open(f"{address}#/new")
        page.until("document.querySelector('.captions')")
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        roles = ("button", "textbox", "link", "combobox", "slider", "spinbutton")
        named = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored") and node["role"]["value"] in roles
        ]
        assert {role for role, _ in named} >= {"button", "textbox", "link", "spinbutton"}
        assert all(name.strip() for _, name in named), named
        focused = set()
        for _ in range(12):
            for kind in ("keyDown", "keyUp"):
                page.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key="Tab",
                    code="Tab",
                    windowsVirtualKeyCode=9,
                )
            focused.add(page.run("document.activeElement.outerHTML.slice(0, 60)"))
        assert len(focused) >= 10
