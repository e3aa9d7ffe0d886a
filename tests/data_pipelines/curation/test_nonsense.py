"""An endpoint that answers nonsense about one film: a sentence, the other goes on, and the next run asks for that one."""

from __future__ import annotations

from bvjax.overrides import apply_overrides
from data_pipelines import curate as command
from data_pipelines.curate import Request, curate
from data_pipelines.curation.rows import is_kept
from data_pipelines.curation.settings import Settings
from tests.data_pipelines.curation.footage import film, pan
from tests.data_pipelines.curation.test_captions import chat, server


def test_one_film_fails_and_is_tried_again(tiny, tmp_path, capsys):
    videos = tmp_path / "films"
    for number, name in enumerate("ab"):
        film(videos / f"{name}.mkv", pan(1 + number, 40))
    good = [False]
    answer = lambda body: chat("A fox walks." if good[0] or len(asked) > 1 else "")
    with server(answer) as (url, asked):
        settings = apply_overrides(
            Settings(),
            ["takes.least_seconds=2", "chunks.keyframes=1", "chunks.keyframe_side=32", f"captions.endpoint={url}",
             "captions.model=m", "captions.retries=0", "captions.concurrency=1", "captions.align=false"],
        )  # fmt: skip
        request = Request(videos, tiny.weights, tmp_path / "out", settings, until="captions")
        report, films = curate(request)
        stage = report["stages"][-1]
        assert [*stage["failed"]] == ["a.mkv"] and stage["why"] == {"failed": 1}
        assert [is_kept(of[0]) for of in films.values()] == [False, True]
        assert command.tell(request, report, films) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "a.mkv: not done: the server at 127.0.0.1" in said
        before, good[0] = len(asked), True
        report, films = curate(request)
        assert report["stages"][-1]["films"] == 1 and not report["stages"][-1]["failed"]
        assert len(asked) - before == len(films["a.mkv"][0]["chunks"])
        assert all(is_kept(row) for of in films.values() for row in of)
