"""`--verify` on every format, and on weights that another name would fit as well."""

from __future__ import annotations

import re

import pytest
from safetensors.numpy import load_file, save_file

from bvjax.cli import main
from bvjax.conversion import formats, verify
from bvjax.conversion.converter import convert
from bvjax.errors import UserError

FILES = {target: files["dit"][1] for target, files in formats.FILES.items()}


@pytest.mark.parametrize("target", formats.TARGETS)
def test_all_parts_of_every_layout(tiny, target, tmp_path, capsys, record_parity):
    command = ["convert", str(tiny.weights), str(tmp_path / "dst"), "--to", target, "--verify"]
    assert main(command) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("verified")]
    found = {
        (part, what): float(relative)
        for part, what, relative in re.findall(
            r"verified (\w+) (\w+): off by .* at most, (\S+) of the largest value", "\n".join(lines)
        )
    }
    parts = {("dit", "velocity"), ("vae", "latents"), ("vae", "frames"), ("text", "states")}
    assert set(found) == parts and len(lines) == len(parts)
    record_parity("convert --verify, relative", "PyTorch", max(found.values()), 1e-4)


@pytest.mark.parametrize(
    "target, one, other",
    [
        ("bvjax", "blocks/1/self_attn/q/kernel", "blocks/1/self_attn/o/kernel"),
        ("wan", "time_embedding.2.bias", "blocks.0.ffn.2.bias"),
        ("diffusers", "blocks.0.attn1.norm_q.weight", "blocks.0.attn2.norm_q.weight"),
    ],
)
def test_weights_under_the_names_of_others(tiny, target, one, other, tmp_path, monkeypatch):
    """What a wrong line in our name tables would do: right shapes, wrong places."""
    convert(tiny.weights / "dit.safetensors", tmp_path, target)
    path = tmp_path / FILES[target]
    right = verify.open_sources

    def swapped(folder):
        (source,) = right(folder)
        read = source.tensors.read
        names = {one: other, other: one}
        tensors = source.tensors._replace(read=lambda name: read(names.get(name, name)))
        return [verify.dataclasses.replace(source, tensors=tensors)]

    assert {one, other} <= set(load_file(path))
    module, params = verify._module, verify._params
    astray = lambda source, model: params(swapped(tmp_path)[0], model)
    monkeypatch.setattr(verify, "_params", astray)
    with pytest.raises(UserError, match=f"{path}: dit velocity differs between PyTorch and bvjax"):
        verify.verify(tmp_path)
    # the same astray on both sides is another model, and no difference
    monkeypatch.setattr(verify, "_module", lambda s, model: module(swapped(tmp_path)[0], model))
    assert len(verify.verify(tmp_path)) == 1


def test_not_finite(tiny, tmp_path):
    convert(tiny.weights / "dit.safetensors", tmp_path, "bvjax")
    found = load_file(tmp_path / "dit.safetensors")
    found["head/head/bias"][3] = float("nan")
    save_file(found, tmp_path / "dit.safetensors")
    with pytest.raises(UserError, match="dit velocity differs between PyTorch and bvjax by nan"):
        verify.verify(tmp_path)
