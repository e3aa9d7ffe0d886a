"""Text is UTF-8 in every locale: no call leaves the encoding to the machine, and none has to."""

import ast
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from bvjax.runs.run_dir import RunDir, Settings

ROOT = pathlib.Path(__file__).parents[1]
ROOMS = ("bvjax", "data_pipelines", "experiments", "kernels_pallas")
NOT_FILES = {"opener", "av", "Image", "tarfile", "os", "RunDir", "cls"}  # their open is another
ACCENTS = "Él niño — 狐"


def bare_calls(source: str) -> list[int]:
    """Lines of the calls that read or write text in the locale's encoding."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and _leaves_it_open(node)
    ]


def _leaves_it_open(call: ast.Call) -> bool:
    options = {word.arg: word.value for word in call.keywords}
    if "encoding" in options or None in options:  # None: **options
        return False
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        return _is_text(call, 1, options)
    if not isinstance(call.func, ast.Attribute):
        return False
    match call.func.attr:
        case "read_text":
            return not (call.args or call.keywords)  # with a name it is `bvjax.files.read_text`
        case "write_text":
            return len(call.args) < 2
        case "open":
            owner = call.func.value
            name = getattr(owner, "attr", getattr(owner, "id", ""))
            return name not in NOT_FILES and _is_text(call, 0, options)
        case "run" | "Popen" | "check_output":
            text = options.get("text") or options.get("universal_newlines")
            return isinstance(text, ast.Constant) and text.value is True
    return False


def _is_text(call: ast.Call, place: int, options: dict[str | None, ast.expr]) -> bool:
    mode = call.args[place] if len(call.args) > place else options.get("mode")
    return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("read_text(path)", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, 'utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("open(path, 'w', newline='')", True),
        ("path.open('a')", True),
        ("path.open('rb')", False),
        ("av.open(path)", False),
        ("subprocess.run(words, text=True)", True),
        ("subprocess.run(words, text=True, encoding='utf-8')", False),
    ],
)
def test_the_search_finds_what_it_is_for(source, bare):
    assert bool(bare_calls(source)) == bare


def test_no_call_leaves_the_encoding_to_the_machine():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for line in bare_calls(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"give encoding='utf-8': {', '.join(found)}"


WORK = """
import pathlib
import sys
from bvjax.files import read_json_object
from bvjax.runs.run_dir import RunDir

sys.stdout.reconfigure(errors="backslashreplace")
path, accents = pathlib.Path(sys.argv[1]), read_json_object(pathlib.Path(sys.argv[2]))["captions"]
with RunDir.open(path) as run:
    assert run.captions == (accents[0], "two."), ascii(run.captions)
    settings = run.settings
RunDir.create(path, settings, [accents[0], "two."]).close()  # the very same run
with RunDir.open(path).replace_captions(accents, 1) as again:
    assert again.captions == tuple(accents), ascii(again.captions)
print(run.path, accents[0])
"""


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """Environments: ASCII, and ISO-8859-1 where it can be made."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    plain |= {"PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    made = {"ASCII": plain | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}}
    folder, name = tmp_path_factory.mktemp("locales"), "en_US.ISO-8859-1"
    if shutil.which("localedef"):
        words = ["localedef", "-f", "ISO-8859-1", "-i", "en_US", str(folder / name)]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            made["ISO-8859-1"] = plain | {"LC_ALL": name, "LOCPATH": str(folder)}
    return made


@pytest.mark.parametrize("locale", ["ASCII", "ISO-8859-1"])
def test_a_run_is_the_same_in_every_locale(tiny, tmp_path, locales, locale):
    if locale not in locales:
        pytest.skip("this machine cannot make the locale")
    settings = Settings(tiny.model, seed=3, scale=8, weights="/w/é", weights_sha256="0" * 64)
    run, story = tmp_path / "läuft", tmp_path / "story.json"
    RunDir.create(run, settings, [ACCENTS, "two."], "Él").close()
    captions = [ACCENTS, "ça va, 狐?"]
    story.write_text(json.dumps({"captions": captions}, ensure_ascii=False), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(run), str(story)],
        env=locales[locale],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    with RunDir.open(run) as again:
        assert again.captions == tuple(captions) and again.title == "Él"
        assert again.settings == settings
