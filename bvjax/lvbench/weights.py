"""Weights of the metric networks: what is published where, and the converted files of this machine.

The published files are PyTorch's.  `bvjax.conversion.metric_weights` makes NAME.safetensors of each,
once, and only those are read here: every tensor of the network in its published shape, no other.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from bvjax.errors import UserError
from bvjax.files import sha256_of
from bvjax.lvbench import suites
from bvjax.lvbench.metric import Options
from bvjax.plain_text import listed
from bvjax.tensor_files import TensorFile

FOLDER_VARIABLE = "BVJAX_METRIC_WEIGHTS"
CONVERT = "python -m bvjax evaluate --convert-weights FOLDER"
_NETS = "bvjax.lvbench.nets."
_HASHED_BY_OTHERS = "measured by others, not published"


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """One published file.

    hash_from: who says that the file has this sha256.  Where it is not who published the file, a
    file of another hash is converted too, after a warning.
    module, sizes: `shapes(*sizes)` of this module of nets are its tensors; "" for a linear layer
    with these numbers of outputs and inputs.
    archive: a TorchScript archive, which holds programs beside tensors.
    """

    name: str
    file: str
    address: str
    size: int  # bytes
    sha256: str
    hash_from: str
    licence: str
    module: str
    sizes: tuple = ()
    archive: bool = False
    note: str = ""  # what to do between download and conversion

    @property
    def published(self) -> bool:
        """True if the publisher states the hash."""
        return self.hash_from != _HASHED_BY_OTHERS

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Published names and shapes of the tensors that its network takes."""
        if not self.module:
            outputs, inputs = self.sizes
            return {"weight": (outputs, inputs), "bias": (outputs,)}
        return importlib.import_module(_NETS + self.module).shapes(*self.sizes)


def _clip(name: str, kind: str, file: str, size: int, sha256: str) -> WeightsFile:
    address = f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"
    return WeightsFile(
        name, file, address, size, sha256, "its address", "MIT", "clip_vision", (kind,), True
    )


_WEIGHTS_FILES = (
    WeightsFile(
        "dino_vitb16", "dino_vitbase16_pretrain.pth",
        "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        343_242_485, "bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e", _HASHED_BY_OTHERS,
        "Apache-2.0", "dino",
    ),
    _clip(
        "clip_vit_b32", "b32", "ViT-B-32.pt", 353_976_522,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    _clip(
        "clip_vit_l14", "l14", "ViT-L-14.pt", 932_768_134,
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    ),
    WeightsFile(
        "laion_aesthetic", "sa_0_4_vit_l_14_linear.pth",
        "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth",
        4_071, "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
        "its repository", "MIT", "", (1, 768),
    ),
    WeightsFile(
        "musiq_spaq", "musiq_spaq_ckpt-358bb6af.pth",
        "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/"
        "musiq_spaq_ckpt-358bb6af.pth",
        108_610_983, "358bb6af275e28ea56821d44fb55c6cb83645db11f394d3ad65b2d149965ab50",
        "its name (the first 8 digits)",
        "Apache-2.0 (Google's); the conversion to PyTorch PolyForm-Noncommercial-1.0.0", "musiq",
    ),
    WeightsFile(
        "amt_s", "amt-s.pth", "https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth",
        12_038_359, "07e7e03405c213fe4405678db9b42d05671e48c56faf6a441b99bb0047d3cf77",
        _HASHED_BY_OTHERS, "CC-BY-NC-4.0", "amt",
    ),
    WeightsFile(
        "raft_things", "raft-things.pth",
        "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",
        21_108_000, "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1", _HASHED_BY_OTHERS,
        "BSD-3-Clause", "raft", note="unzip models/raft-things.pth",
    ),
)  # fmt: skip
FILES = {entry.name: entry for entry in _WEIGHTS_FILES}


def default_folder() -> pathlib.Path:
    """Returns the folder of converted weights: $BVJAX_METRIC_WEIGHTS, or bvjax/metrics in the cache."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return pathlib.Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "bvjax" / "metrics"


def path_of(name: str, folder: pathlib.Path) -> pathlib.Path:
    """The converted file of some weights; raises `UserError` for an unknown name."""
    if name not in FILES:
        raise UserError(f"there are no metric weights {name!r}; there are {', '.join(FILES)}")
    return pathlib.Path(folder) / f"{name}.safetensors"


def present(name: str, folder: pathlib.Path) -> bool:
    """Returns whether the weights are converted; the file's content is checked when it is loaded."""
    return path_of(name, folder).is_file()


def check_present(names: Iterable[str], folder: pathlib.Path) -> None:
    """Raises one `UserError` that lists all of these weights that are not there, if any is not."""
    missing_files = [FILES[name] for name in dict.fromkeys(names) if not present(name, folder)]
    if not missing_files:
        return
    message = [
        f"{len(missing_files)} weights file{'s are' if len(missing_files) > 1 else ' is'} missing in {folder}:"
    ]
    for entry in missing_files:
        if _state(entry, folder) == "convert":
            hint = "is there, not converted yet"
        else:
            note = f", {entry.note}" if entry.note else ""
            hint = f"{_megabytes(entry.size)}, from {entry.address}{note}"
        message.append(f"  {entry.name}: {entry.file}, {hint}")
    message.append(
        f"download them into a folder and convert them once, where torch is installed: {CONVERT}"
        + ("" if pathlib.Path(folder) == default_folder() else f" --weights-dir {folder}")
    )
    raise UserError("\n".join(message))


def load(name: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The published tensors, float32, of a network.

    Raises `UserError` when the file is not there or damaged, and for any tensor that is missing,
    of another shape or type, or of another network.
    """
    path = path_of(name, folder)
    check_present([name], folder)
    file = TensorFile(path)
    expected = FILES[name].shapes()
    check_tensors(path, {n: info.shape for n, info in file.infos.items()}, expected)
    for tensor, info in file.infos.items():
        if info.dtype != "float32":
            raise UserError(f"{path}: {tensor} is {info.dtype}; converted weights are float32")
    return {tensor: file.read(tensor) for tensor in expected}


def check_tensors(
    path: pathlib.Path,
    actual: dict[str, tuple[int, ...]],
    expected: dict[str, tuple[int, ...]],
) -> None:
    """Raises `UserError` where names or shapes of a file are not just those of a network."""
    wrong_shapes = [
        f"{name} is {list(actual[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in actual and tuple(actual[name]) != tuple(shape)
    ]
    problems = (
        ("lacks", [name for name in expected if name not in actual]),
        ("has too many:", [name for name in actual if name not in expected]),
        ("has tensors of other shapes:", wrong_shapes),
    )
    differences = [f"{verb} {listed(names)}" for verb, names in problems if names]
    if differences:
        raise UserError(f"{path} {' and '.join(differences)}")


def sha256(name: str, folder: pathlib.Path) -> str:
    """Hash of the converted file; raises `UserError` when it is not there."""
    check_present([name], folder)
    return sha256_of(path_of(name, folder))


def used_by(name: str) -> list[str]:
    """The metrics that need these weights; where an option asks for them, with that option."""
    defaults, all_options = Options(), Options(flow="raft", subject="dino", aesthetic="laion")
    metrics = []
    for entry in suites.METRIC_ENTRIES.values():
        if name in entry.required_weights(defaults):
            metrics.append(entry.name)
        elif name in entry.required_weights(all_options):
            option = next(
                o for o in entry.weight_options if getattr(all_options, o) != getattr(defaults, o)
            )
            metrics.append(f"{entry.name} ({option} {getattr(all_options, option)})")
    return metrics


def table(folder: pathlib.Path) -> list[dict[str, str]]:
    """A row per published file: name, state (present, convert or missing), file, address, size,
    sha256, licence, metrics.  `convert`: the published file lies in the folder as it was loaded."""
    return [
        {
            "name": entry.name,
            "state": _state(entry, folder),
            "file": entry.file,
            "address": entry.address + (f" ({entry.note})" if entry.note else ""),
            "size": f"{entry.size} bytes",
            "sha256": f"{entry.sha256} ({entry.hash_from})",
            "licence": entry.licence,
            "metrics": ", ".join(used_by(entry.name)),
        }
        for entry in FILES.values()
    ]


def lines(folder: pathlib.Path) -> list[str]:
    """`table` as lines of text."""
    text = [f"weights folder: {folder}"]
    for row in table(folder):
        text += ["", f"{row.pop('name')}: {row.pop('state')}"]
        text += [f"  {key:8} {value}" for key, value in row.items()]
    return [*text, "", f"convert downloaded files once, where torch is installed: {CONVERT}"]


def _state(entry: WeightsFile, folder: pathlib.Path) -> str:
    if present(entry.name, folder):
        return "present"
    return "convert" if (pathlib.Path(folder) / entry.file).is_file() else "missing"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
