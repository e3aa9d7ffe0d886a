"""Files that are no weights are said to be what they are, in one short sentence."""

from __future__ import annotations

import pytest

from bvjax.cli import main
from bvjax.conversion import lora
from bvjax.conversion.sources import open_sources
from bvjax.errors import UserError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5676070424\n"
KINDS = {
    "is a Git LFS pointer, not the file itself; run 'git lfs pull' there": POINTER,
    "is a GGUF file, which bvjax does not read; give safetensors": "GGUF\3\0\0\0" + "\0" * 100,
    "is a web page, not a file of weights; download it again": "\n<!DOCTYPE html><html>",
}


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.gguf", "model"])
@pytest.mark.parametrize("kind", KINDS)
def test_named(kind, name, tmp_path, tiny, capsys):
    file = tmp_path / name
    file.write_text(KINDS[kind])
    assert main(["convert", str(file), str(tmp_path / "dst"), "--to", "bvjax"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"bvjax: {file} {kind}"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(UserError, match=kind):
        lora.open_lora(file, 1.0, tiny.model)
    if file.suffix:
        with pytest.raises(UserError, match=kind):
            open_sources(tmp_path)


def test_a_gguf_beside_a_checkpoint_is_passed_over(tiny, tmp_path):
    (tmp_path / "q4.gguf").write_text(KINDS[list(KINDS)[1]])
    (tmp_path / "vae.safetensors").symlink_to(tiny.weights / "vae.safetensors")
    assert [source.part for source in open_sources(tmp_path)] == ["vae"]


def test_a_weights_folder_of_pointers(tiny, tmp_path):
    for path in tiny.weights.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "dit.safetensors").unlink()
    (tmp_path / "dit.safetensors").write_text(POINTER)
    from bvjax import weights

    with pytest.raises(UserError, match="is a Git LFS pointer"):
        weights.load_weights(tmp_path)
