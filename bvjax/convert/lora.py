"""LoRA: low-rank changes of a DiT's weights, merged into them and taken out again.

    W + strength * alpha / rank * up @ down        (Hu et al. 2021, arXiv 2106.09685, section 4.1)

Keys are "MODULE.ROLE": MODULE in the original Wan names or in diffusers', after any of the prefixes
below, ROLE one of `ROLES`.  `diff` and `diff_b` are whole changes of a weight and of a bias, which
published files put beside the low-rank ones.  What is left over is an error, never passed over.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

from bvjax.config import ModelConfig
from bvjax.convert import dit_names, layouts, torch_files
from bvjax.convert.sources import TORCH_SUFFIXES, Tensors
from bvjax.convert.tables import Spec
from bvjax.errors import UserError
from bvjax.files import parse_json
from bvjax.tensor_files import TensorFile
from bvjax.weights import DTYPES, Params, disk_names, flatten

PREFIX = re.compile(r"(base_model\.model\.|model\.|diffusion_model\.|transformer\.)*")
ROLES = {
    "lora_A.weight": "down",
    "lora_A.default.weight": "down",
    "lora_down.weight": "down",
    "lora_B.weight": "up",
    "lora_B.default.weight": "up",
    "lora_up.weight": "up",
    "alpha": "alpha",
    "diff": "diff",
    "diff_b": "diff_b",
}
METADATA = "lora_adapter_metadata"  # where diffusers keeps PEFT's settings


class Change(NamedTuple):
    """What a LoRA file does to one tensor: keys of the file, and the factor of the product."""

    spec: Spec  # its name and layout here and in the file
    down: str | None = None
    up: str | None = None
    scale: float = 1.0  # alpha / rank
    diff: str | None = None


@dataclasses.dataclass(frozen=True)
class Lora:
    """An opened file that fits the model."""

    path: Path
    strength: float
    changes: Mapping[str, Change]  # by the name of our tensor on disk
    read: Callable[[str], np.ndarray]


def parse(text: str) -> tuple[Path, float]:
    """Of FILE or FILE:STRENGTH, the path and the strength, 1 by default; raises `UserError`."""
    file, colon, number = text.rpartition(":")
    try:
        strength = float(number) if colon else None
    except ValueError:  # a colon in the name
        strength = None
    if strength is None:
        return Path(text), 1.0
    if not math.isfinite(strength):
        raise UserError(f"--lora {text}: the strength must be a finite number")
    return Path(file), strength


def open_lora(path: Path, strength: float, model: ModelConfig) -> Lora:
    """Opens a LoRA for the DiT of `model`; reads no weights yet, only the alphas.

    Raises:
        UserError: with every key that no tensor of the DiT answers to, every pair that is not
            whole and everything of another shape or dtype; or the file is damaged.
    """
    path = Path(path)
    tensors, told = _open(path)
    weights, biases = _targets(model)
    modules: dict[str, dict[str, str]] = {}
    unmatched, problems = [], []
    for key in tensors.infos:
        module, role = _split(key)
        if role is None or module not in (biases if role == "diff_b" else weights):
            unmatched.append(key)
        elif role in modules.setdefault(module, {}):
            problems.append(f"{key} is there twice")
        else:
            modules[module][role] = key
    if unmatched:
        problems.append(f"no tensor of this DiT is called {', '.join(sorted(unmatched))}")
    changes: dict[str, Change] = {}
    for module, keys in modules.items():
        found = []
        try:
            if "diff_b" in keys:
                found.append(_whole(Change(biases[module], diff=keys.pop("diff_b")), tensors))
            if keys:
                found.append(_change(weights[module], keys, tensors, told))
        except _Misfit as error:
            problems.append(str(error))
        for change in found:
            if changes.setdefault(change.spec.ours, change) is not change:
                problems.append(f"{module} is there under two names")
    if problems:
        raise UserError(f"{path} does not fit the DiT: {'; '.join(problems)}")
    if not changes:
        raise UserError(f"{path} holds no LoRA")
    return Lora(path, strength, changes, tensors.read)


def merged(loras: Sequence[Lora], name: str, array: np.ndarray) -> np.ndarray:
    """Our tensor `name` with all LoRAs in it, in float32; the same array if none changes it."""
    for lora in loras:
        change = lora.changes.get(name)
        if change is not None:
            array = array.astype(np.float32) + _delta(lora, change)
    return array


def merge(params: Params, loras: Sequence[Lora]) -> Params:
    """The DiT's parameters with all LoRAs in them: summed in float32, of the dtype of `params`."""
    flat = flatten(params)
    changed: dict[str, np.ndarray] = {}
    for name, (leaf, layer) in disk_names(flat).items():
        if any(name in lora.changes for lora in loras):
            whole = changed.setdefault(leaf, np.array(flat[leaf]))
            at = () if layer is None else layer
            whole[at] = merged(loras, name, whole[at]).astype(whole.dtype)
    return flax.traverse_util.unflatten_dict(flat | changed, sep="/")


def unmerge(params: Params, loras: Sequence[Lora]) -> Params:
    """Inverse of `merge` up to rounding: half an ulp of the merged weight and one of the result.

    Nothing can undo the merging into a dtype below float32 more finely than that dtype is.
    """
    return merge(params, [dataclasses.replace(x, strength=-x.strength) for x in loras[::-1]])


def _delta(lora: Lora, change: Change) -> np.ndarray:
    """float32, in our layout."""
    there = change.spec.shape_there
    total = np.zeros(there, np.float32)
    if change.down is not None:
        down, up = (lora.read(key).astype(np.float32) for key in (change.down, change.up))
        total += (up.reshape(there[0], -1) @ down.reshape(len(down), -1)).reshape(there) * (
            np.float32(change.scale)
        )
    if change.diff is not None:
        total += lora.read(change.diff).astype(np.float32).reshape(there)
    return change.spec.to_ours(total * np.float32(lora.strength))


def _split(key: str) -> tuple[str, str | None]:
    """(module without prefixes, role)."""
    for ending, role in ROLES.items():
        if key.endswith(f".{ending}"):
            return PREFIX.sub("", key.removesuffix(f".{ending}"), count=1), role
    return key, None


class _Misfit(Exception):
    """What is wrong with one module's tensors."""


def _targets(model: ModelConfig) -> tuple[dict[str, Spec], dict[str, Spec]]:
    """The weights and the biases of the DiT, by the module's name in every layout.

    The layouts' names do not contradict each other: where one has a name of the other's, as
    norm2 and norm3 are, only one of the two has parameters.
    """
    weights, biases = {}, {}
    for layout in dit_names.LAYOUTS:
        for spec in layouts.specs(model, "dit", layout):
            module, _, leaf = spec.theirs.rpartition(".")
            if leaf == "bias":
                biases[module] = spec
            else:
                weights[module if leaf == "weight" else spec.theirs] = spec
    return weights, biases


def _change(spec: Spec, keys: Mapping[str, str], tensors: Tensors, told) -> Change:
    """The change of a weight; raises `_Misfit`."""
    down, up, diff = (keys.get(role) for role in ("down", "up", "diff"))
    if (down is None) != (up is None):
        raise _Misfit(f"{down or up} has no counterpart")
    if down is None:
        if "alpha" in keys:
            raise _Misfit(f"{keys['alpha']} has no weights beside it")
        return _whole(Change(spec, diff=diff), tensors)
    out, *rest = spec.shape_there
    rank = (*tensors.infos[down].shape, 0)[0]
    for key, rows, columns in ((down, rank, math.prod(rest)), (up, out, rank)):
        shape = tensors.infos[key].shape
        if not rest or not rank or len(shape) < 2 or (
            (shape[0], math.prod(shape[1:])) != (rows, columns)
        ):  # fmt: skip
            raise _Misfit(f"{key} has shape {list(shape)} instead of {[rows, columns]}")
        _check_dtype(key, tensors)
    alpha = told.get("lora_alpha", rank)
    if "alpha" in keys:
        alpha = float(np.asarray(tensors.read(keys["alpha"])).reshape(-1)[0])
    change = Change(spec, down, up, alpha / rank, diff)
    return change if diff is None else _whole(change, tensors)


def _whole(change: Change, tensors: Tensors) -> Change:
    """The same change; raises `_Misfit` unless its `diff` has the shape of what it changes."""
    shape, wanted = tensors.infos[change.diff].shape, change.spec.shape_there
    if shape != wanted:
        raise _Misfit(f"{change.diff} has shape {list(shape)} instead of {list(wanted)}")
    _check_dtype(change.diff, tensors)
    return change


def _check_dtype(key: str, tensors: Tensors) -> None:
    if tensors.infos[key].dtype not in DTYPES:
        dtype = tensors.infos[key].dtype
        raise _Misfit(f"{key} has dtype {dtype}, which is not {', '.join(DTYPES)}")


def _open(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a file, and PEFT's settings where they are written down."""
    if not path.is_file():
        raise UserError(f"there is no LoRA file {path}")
    if path.suffix in TORCH_SUFFIXES:
        infos, read, _ = torch_files.open_torch(path)
        return Tensors(infos, read), {}
    file = TensorFile(path)
    told = file.metadata.get(METADATA)
    beside = path.with_name("adapter_config.json")
    if told is None and path.name.startswith("adapter_model") and beside.is_file():
        told = beside.read_bytes()
    try:
        settings = {
            k.removeprefix("transformer."): v
            for k, v in parse_json(told or "{}", str(path)).items()
        }
    except (ValueError, AttributeError):
        raise UserError(f"the settings of {path} are damaged") from None
    for name in ("use_rslora", "use_dora", "alpha_pattern"):
        if settings.get(name):
            raise UserError(f"{path} has {name}, which bvjax does not merge")
    return Tensors(file.infos, file.read), settings
