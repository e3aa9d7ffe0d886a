"""Conversion of published metric weights, with small files of the same make."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import types

import numpy as np
import pytest
import torch

from bvjax.conversion import metric_weights
from bvjax.errors import UserError
from bvjax.lvbench import weights
from bvjax.lvbench.weights import WeightsFile
from bvjax.tensor_files import TensorFile

SHAPES = {
    "raft": {
        "fnet.conv1.weight": (4, 3, 3, 3),
        "cnet.layer2.0.norm3.weight": (4,),
        "cnet.layer2.0.norm3.running_mean": (4,),
    },
    "amt": {"encoder.weight": (2, 3), "encoder.bias": (2,)},
    "clip_vision": {"visual.proj": (3, 2), "visual.conv1.weight": (3, 3, 2, 2)},
}
NAMES = {"raft": "raft_things", "amt": "amt_s", "clip_vision": "clip_vit_b32"}


class Clip(torch.nn.Module):
    """What an archive of CLIP holds, in half precision."""

    def __init__(self, extra: str = "logit_scale"):
        super().__init__()
        self.visual = torch.nn.Module()
        self.visual.proj = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2) / 7)
        self.visual.conv1 = torch.nn.Conv2d(3, 3, 2, bias=False)
        self.token_embedding = torch.nn.Embedding(5, 2)
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_parameter(extra, torch.nn.Parameter(torch.ones(())))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder of small published files, and the catalogue that describes them."""
    folder = tmp_path / "published"
    folder.mkdir()
    raft = {
        "fnet.conv1.weight": torch.arange(108.0).reshape(4, 3, 3, 3),
        "cnet.layer2.0.norm3.weight": torch.arange(4.0),
        "cnet.layer2.0.norm3.running_mean": torch.ones(4),
        "cnet.layer2.0.norm3.num_batches_tracked": torch.tensor(5),
        "cnet.layer2.0.downsample.1.weight": torch.arange(4.0),
        "cnet.layer2.0.downsample.1.running_mean": torch.ones(4),
        "cnet.layer2.0.downsample.1.num_batches_tracked": torch.tensor(5),
    }
    raft = {f"module.{name}": tensor for name, tensor in raft.items()}
    torch.save(raft, folder / "raft-things.pth", _use_new_zipfile_serialization=False)
    amt = {"encoder.weight": torch.rand(2, 3), "encoder.bias": torch.rand(2)}
    rest = {"epoch": 3, "config": argparse.Namespace(lr=1), "psnr": np.float64(36.1)}
    torch.save(rest | {"state_dict": amt}, folder / "amt-s.pth")
    torch.jit.script(Clip().half()).save(folder / "ViT-B-32.pt")
    catalogue = {}
    for module, shapes in SHAPES.items():
        fake = types.SimpleNamespace(shapes=lambda *sizes, shapes=shapes: shapes)
        monkeypatch.setitem(sys.modules, f"bvjax.lvbench.nets.{module}", fake)
        real = weights.FILES[NAMES[module]]
        path = folder / real.file
        catalogue[real.name] = WeightsFile(
            real.name,
            real.file,
            real.address,
            path.stat().st_size,
            sha256(path),
            real.hash_from,
            real.licence,
            module,
            archive=real.archive,
        )
    monkeypatch.setattr(weights, "FILES", catalogue)
    monkeypatch.setattr(metric_weights, "FILES", catalogue)
    return types.SimpleNamespace(folder=folder, target=tmp_path / "out", raft=raft, amt=amt)


def test_a_folder_of_them_is_converted_and_loads_strictly(files):
    (files.folder / "other.pth").touch()
    told = []
    done = metric_weights.convert(files.folder, files.target, told.append)
    assert sorted(done) == sorted(NAMES.values())
    assert "other.pth" in told[0] and "passed over" in told[0]
    raft = weights.load("raft_things", files.target)
    for name, values in raft.items():
        np.testing.assert_array_equal(values, files.raft[f"module.{name}"].numpy())
    amt = weights.load("amt_s", files.target)
    np.testing.assert_array_equal(amt["encoder.bias"], files.amt["encoder.bias"].numpy())
    clip = weights.load("clip_vit_b32", files.target)  # text tower gone, half to single
    want = (torch.arange(6.0).reshape(3, 2) / 7).half().float().numpy()
    np.testing.assert_array_equal(clip["visual.proj"], want)
    about = TensorFile(files.target / "amt_s.safetensors").metadata
    assert about["source"] == "amt-s.pth" and about["licence"] == "CC-BY-NC-4.0"
    assert about["source_sha256"] == sha256(files.folder / "amt-s.pth")
    stamps = {path: path.stat().st_mtime_ns for path in files.target.iterdir()}
    metric_weights.convert(files.folder, files.target, told.append)  # nothing left to do
    assert stamps == {path: path.stat().st_mtime_ns for path in files.target.iterdir()}


def test_an_archive_is_never_opened_without_its_hash(files, monkeypatch):
    opened = []
    load = torch.jit.load
    monkeypatch.setattr(torch.jit, "load", lambda p, **kw: opened.append(p) or load(p, **kw))
    path = files.folder / "ViT-B-32.pt"
    torch.jit.script(Clip().half()).save(path)  # the same tensors' names, other bytes
    with pytest.raises(UserError, match=r"ViT-B-32\.pt has the sha256 .* not opened; download"):
        metric_weights.convert(path, files.target)
    renamed = path.rename(files.folder / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt is a TorchScript archive and none of those"):
        metric_weights.convert(renamed, files.target)
    assert not opened and not files.target.exists() or not list(files.target.iterdir())


def test_a_renamed_file_is_known_by_its_hash_or_tensors(files):
    path = (files.folder / "ViT-B-32.pt").rename(files.folder / "b32.zip")
    assert metric_weights.recognise(path)[0] == "clip_vit_b32"
    torch.save(files.amt, files.folder / "mine.pth")
    told = []
    assert metric_weights.convert([files.folder / "mine.pth"], files.target, told.append) == [
        "amt_s"
    ]
    assert "warning" in told[0] and "not published" in told[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"module.fnet.conv1.weight": None}, r"raft-things\.pth lacks fnet\.conv1\.weight"),
        ({"module.more": torch.ones(1)}, "has too many: more"),
        (
            {"module.fnet.conv1.weight": torch.ones(4, 3, 1, 1)},
            r"\[4, 3, 1, 1\], not \[4, 3, 3, 3\]",
        ),
        ({"module.cnet.layer2.0.downsample.1.weight": torch.ones(4)}, "are one tensor in RAFT"),
        ({"module.fnet.conv1.weight": torch.full((4, 3, 3, 3), torch.nan)}, "not finite"),
        ({"module.fnet.conv1.weight": torch.ones(4, 3, 3, 3, dtype=torch.int32)}, "is int32"),
    ],
)
def test_other_tensors_are_refused_by_name(files, change, match):
    path = files.folder / "raft-things.pth"
    torch.save({n: x for n, x in (files.raft | change).items() if x is not None}, path)
    with pytest.raises(UserError, match=match):
        metric_weights.convert(path, files.target, lambda text: None)
    assert not list(files.target.iterdir())


class Settings:
    """An object of a class of the project that wrote a checkpoint."""

    def __init__(self):
        self.rate = 1.0

    def __setstate__(self, state):
        raise AssertionError("this class was used")


def test_objects_beside_the_tensors_are_passed_over(files):
    torch.save({"state_dict": files.amt, "config": Settings()}, files.folder / "amt-s.pth")
    metric_weights.convert(files.folder / "amt-s.pth", files.target, lambda text: None)
    assert "encoder.bias" in weights.load("amt_s", files.target)


def test_nothing_of_a_file_is_run(files, tmp_path):
    class Command:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"state_dict": files.amt, "more": Command()}, files.folder / "amt-s.pth")
    with pytest.raises(UserError, match="holds more than tensors"):
        metric_weights.convert(files.folder / "amt-s.pth", files.target, lambda text: None)
    assert not (tmp_path / "ran").exists()


def test_sources_that_are_none(files, tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        metric_weights.convert(tmp_path / "nowhere", files.target)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="none of the published files"):
        metric_weights.convert(tmp_path / "empty", files.target)
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth is none of the metrics' published weights"):
        metric_weights.convert(tmp_path / "a.pth", files.target)
    again = files.folder / "again"
    again.mkdir()
    torch.save(files.amt, again / "amt-s.pth")
    with pytest.raises(UserError, match="are both amt_s"):
        metric_weights.convert(files.folder, files.target, lambda text: None)
