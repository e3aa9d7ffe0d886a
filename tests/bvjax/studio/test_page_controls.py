"""LoRAs switched and a run deleted on the page, in a browser; chunks are made by a stand-in."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import chromium
import pytest
import uvicorn

from bvjax.studio import making, previews
from bvjax.studio.server import make_app
from bvjax.studio.studio import Studio
from tests.bvjax.studio.conftest import CAPTIONS
from tests.bvjax.studio.test_server import stand_in
from tests.support import lora_files as files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.CHROMIUM is None, reason="there is no Chromium"),
]


@contextlib.contextmanager
def served(studio):
    """The address of a studio that a thread serves."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(studio), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()


def slide(page, selector, value, index=0):
    """Moves a slider as a hand would."""
    page.run(
        f"""(() => {{ const field = document.querySelectorAll({json.dumps(selector)})[{index}];
          field.value = {value}; field.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"""
    )


def strengths(studio, name):
    return json.loads((studio.versions.path(name) / "config.json").read_text())["lora_strengths"]


def test_loras_and_deletion(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "execute", stand_in)
    monkeypatch.setattr(previews, "watch_of", lambda *given: None)
    loras, runs = tmp_path / "loras", tmp_path / "runs"
    loras.mkdir(), runs.mkdir()
    files.save(loras / "ink.safetensors", files.lora())
    files.save(loras / "oil.safetensors", files.lora(seed=1))
    studio = Studio(pipeline, runs, loras)
    with served(studio) as address, chromium.page(tmp_path / "browser") as page:
        page.open(f"{address}#/new")
        page.until("document.querySelector('.captions')")
        page.write("#title", "Pip")
        page.write(".captions textarea", CAPTIONS[0])
        page.click("LoRAs")
        slide(page, "input[id^=lora-]", 0.5)
        page.click("Make it")
        page.until("document.querySelector('.status')?.textContent.startsWith('Finished')")
        assert strengths(studio, "pip") == [[0, [0.5]]]

        # another chunk, with the other LoRA on
        page.click("Add a caption")
        page.write(".story textarea", CAPTIONS[1], 1)
        studio.jobs.pause("pip")
        page.click("Use these captions")
        page.until("document.querySelectorAll('.strip .made').length === 2")
        page.click("Chunk 2", ".strip")
        page.click("Branch from here")
        page.click("LoRAs", "dialog")
        slide(page, "dialog input[id^=lora-]", 1.0, 1)
        page.click("Branch", "dialog")
        page.until("location.hash.endsWith('pip-another-way')")
        page.until("document.querySelectorAll('.strip .made').length === 2")
        assert strengths(studio, "pip-another-way") == [[0, [0.5, 0.0]], [2, [0.5, 1.0]]]

        # taken back, and the strength of chunk 2 set before it is made
        page.click("Chunk 1", ".strip")
        page.click("Take back to chunk 1")
        page.until("document.querySelectorAll('.strip .made').length === 1")
        page.until("document.querySelectorAll('aside input[id^=lora-]').length === 2")
        slide(page, "aside input[id^=lora-]", 0, 0)
        page.click("Use from chunk 2 on")
        wanted = [[0, [0.5, 0.0]], [2, [0.0, 1.0]]]
        page.until(
            "[...document.querySelectorAll('.toast.good')].at(-1).textContent.includes('from chunk 2')"
        )
        for _ in range(100):
            if strengths(studio, "pip-another-way") == wanted:
                break
            time.sleep(0.1)
        assert strengths(studio, "pip-another-way") == wanted

        # a run that another branches from is deleted after a question that says so
        page.open(f"{address}#/run/pip")
        page.until("document.querySelector('.controls button')")
        page.click("Delete", ".controls")
        said = page.until("document.querySelector('dialog')?.textContent")
        assert "stay whole, with files of their own: pip-another-way" in said
        page.click("Keep it", "dialog")
        assert (runs / "pip").is_dir()
        page.click("Delete", ".controls")
        page.click("Delete it for good", "dialog")
        page.until("document.querySelectorAll('.card').length === 1")
        assert not (runs / "pip").exists() and (runs / "pip-another-way").is_dir()
        # A picture of a run may be asked for while it is deleted.
        assert not [error for error in page.errors if "/api/runs/pip/still/" not in error]
