"""LoRA and its relatives: changes of a DiT's weights, merged into them and taken out again.

The mathematics is in `low_rank`, the names of keys in `lora_names`.  `diff`, `diff_b` and `diff_m`
are whole changes of a weight, a bias and a modulation, which published files put beside the
low-rank ones.  What is left over is an error, never passed over.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bvjax.config import ModelConfig
from bvjax.conversion import dit_names, formats, lora_names, low_rank
from bvjax.conversion.sources import TORCH_SUFFIXES, open_tensors
from bvjax.conversion.tables import Spec
from bvjax.conversion.tensors import Tensors
from bvjax.errors import UserError
from bvjax.files import parse_json
from bvjax.plain_text import listed
from bvjax.tensor_files import TensorFile
from bvjax.weights import DTYPES

_FAMILIES = {
    "LoRA": ("down", "up"),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "LoKr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
}
_FACTORS = frozenset(role for roles in _FAMILIES.values() for role in roles)
METADATA = "lora_adapter_metadata"  # where diffusers keeps PEFT's settings


class Change(NamedTuple):
    """The change that a LoRA file makes to one tensor."""

    spec: Spec  # its names and shapes here and in the file
    keys: Mapping[str, str]  # of the file, by their role
    scale: float = 1.0  # of the product: alpha / rank


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
        raise UserError(f"`loras` {text}: the strength must be a finite number")
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
    names = lora_names.Reader([*weights, *biases])
    modules: dict[str, dict[str, str]] = {}
    unmatched, problems = [], []
    for key in tensors.infos:
        try:
            place = names.place(key)
        except UserError as error:
            raise UserError(f"{path} does not fit the DiT: {error}") from None
        if place is None or place.module not in (
            biases if place.role in ("diff_b", "up_bias") else weights
        ):
            unmatched.append(key)
        elif place.role in modules.setdefault(place.module, {}):
            problems.append(f"{key} is there twice")
        else:
            modules[place.module][place.role] = key
    if unmatched:
        problems.append(f"no tensor of this DiT is called {listed(sorted(unmatched))}")
    changes: dict[str, Change] = {}
    for module, keys in modules.items():
        found = []
        try:
            found = _changes(weights.get(module), biases.get(module), keys, tensors, told)
        except _Misfit as error:
            problems.append(str(error))
        for change in found:
            if changes.setdefault(change.spec.ours, change) is not change:
                problems.append(f"{module} is there under two names")
    if problems:
        raise UserError(f"{path} does not fit the DiT: {listed(problems, between='; ')}")
    if not changes:
        raise UserError(f"{path} holds no LoRA")
    lora = Lora(path, strength, changes, tensors.read)
    if strength < 0:
        _check_exact(lora)
    return lora


def merged(loras: Sequence[Lora], name: str, array: np.ndarray) -> np.ndarray:
    """Our tensor `name` with all LoRAs in it, in float32; the same array if none changes it."""
    for lora in loras:
        change = lora.changes.get(name)
        if change is not None:
            array = array.astype(np.float32)
            array = array + _delta(lora, change, array)
    return array


def _delta(lora: Lora, change: Change, array: np.ndarray) -> np.ndarray:
    """The change of `array`, float32, both with our axes."""
    there, keys = change.spec.shape_there, change.keys

    def read(role: str) -> np.ndarray:
        found = lora.read(keys[role]).astype(np.float32)
        return found.reshape(len(found), -1) if role in _FACTORS else found

    total = np.zeros(there, np.float32)
    if not _FACTORS.isdisjoint(keys):
        product = _product(keys, read) * np.float32(change.scale)
        if "magnitude" in keys:
            weight = change.spec.to_theirs(array).reshape(product.shape)
            product = low_rank.dora(weight, product, read("magnitude"))
        total += product.reshape(there)
    if "up_bias" in keys:
        total += read("up_bias") * np.float32(change.scale)
    if "diff" in keys:
        total += read("diff").reshape(there)
    return change.spec.to_ours(total * np.float32(lora.strength))


def _product(keys: Mapping[str, str], read: Callable[[str], np.ndarray]) -> np.ndarray:
    if "down" in keys:
        return low_rank.lora(read("down"), read("up"))
    if "hada_w1_a" in keys:
        return low_rank.loha(*map(read, _FAMILIES["LoHa"]))
    sides = [
        read(side) if side in keys else read(f"{side}_a") @ read(f"{side}_b")
        for side in ("lokr_w1", "lokr_w2")
    ]
    return low_rank.lokr(*sides)


def _check_exact(lora: Lora) -> None:
    """Raises `UserError` for a change that a negative strength does not take out."""
    if any("magnitude" in change.keys for change in lora.changes.values()):
        raise UserError(
            f"{lora.path} is a DoRA: it cannot be taken out of weights again; use those before it"
        )


class _Misfit(Exception):
    """What is wrong with one module's tensors."""


def _targets(model: ModelConfig) -> tuple[dict[str, Spec], dict[str, Spec]]:
    """The weights and the biases of the DiT, by the module's name in every format.

    The formats' names do not contradict each other: where one has a name of the other's, as
    norm2 and norm3 are, only one of the two has parameters.
    """
    weights, biases = {}, {}
    for format_name in dit_names.FORMATS:
        for spec in formats.specs(model, "dit", format_name):
            module, _, leaf = spec.theirs.rpartition(".")
            if leaf == "bias":
                biases[module] = spec
            else:
                weights[module if leaf == "weight" else spec.theirs] = spec
    return weights, biases


def _changes(weight: Spec | None, bias: Spec | None, keys, tensors: Tensors, told) -> list[Change]:
    """Returns the changes of a module's weight and bias; raises `_Misfit`."""
    keys, found = dict(keys), []
    of_bias = {"up_bias": keys.pop("up_bias", None), "diff": keys.pop("diff_b", None)}
    of_bias = {role: key for role, key in of_bias.items() if key is not None}
    scale = 1.0
    if set(keys) - {"diff"}:
        scale = _scale(weight, keys, tensors, told)
    for spec, changed in ((weight, keys), (bias, of_bias)):
        whole = [key for role, key in changed.items() if role in ("up_bias", "diff")]
        for key in whole:
            shape, wanted = tensors.infos[key].shape, spec.shape_there
            if shape != wanted:
                raise _Misfit(f"{key} has shape {list(shape)} instead of {list(wanted)}")
            _check_dtype(key, tensors)
        if changed:
            found.append(Change(spec, changed, scale))
    if "up_bias" in of_bias and ("down" not in keys or "magnitude" in keys):
        raise _Misfit(f"{of_bias['up_bias']} is of no LoRA that bvjax merges")
    return found


def _scale(spec: Spec, keys: Mapping[str, str], tensors: Tensors, told) -> float:
    """alpha / rank of a product whose factors fit the weight; raises `_Misfit`."""
    families = [name for name, roles in _FAMILIES.items() if not keys.keys().isdisjoint(roles)]
    some = next(key for role, key in keys.items() if role != "diff")
    if not families:
        raise _Misfit(f"{some} has no weights beside it")
    if len(families) > 1:
        raise _Misfit(f"{some} is beside tensors of {' and '.join(families)}")
    out, *rest = spec.shape_there
    width = math.prod(rest)
    if not rest:
        raise _Misfit(f"{some} is of a tensor with one axis, which has no rank")
    factors = {role: key for role, key in keys.items() if role in _FACTORS}
    rank = _check_factors(families[0], factors, out, width, tensors)
    if "magnitude" in keys:
        key, shape = keys["magnitude"], tensors.infos[keys["magnitude"]].shape
        if len(rest) > 1:
            raise _Misfit(f"{key} is of a convolution, whose DoRA bvjax does not merge")
        if shape not in ((out,), (out, 1), (1, width)):
            raise _Misfit(
                f"{key} has shape {list(shape)} instead of {[out]}, {[out, 1]} or {[1, width]}"
            )
        _check_dtype(key, tensors)
    if rank is None:  # LoKr of two whole factors is not scaled, whatever its alpha says
        return 1.0
    alpha = told.get("lora_alpha", told.get("alpha", rank))
    if "alpha" in keys:
        alpha = np.asarray(tensors.read(keys["alpha"]))
        alpha = float(alpha.reshape(-1)[0]) if alpha.size == 1 else math.nan
        if not math.isfinite(alpha):
            raise _Misfit(f"{keys['alpha']} is not a finite number")
    return alpha / (math.sqrt(rank) if told.get("use_rslora") else rank)


def _check_factors(family: str, keys, out: int, width: int, tensors: Tensors) -> int | None:
    """The rank of the factors of an [out, width] weight, None if none is low; raises `_Misfit`."""
    shapes = {}
    for role, key in keys.items():
        shape = tensors.infos[key].shape
        if len(shape) < 2 or not math.prod(shape):
            raise _Misfit(f"{key} has shape {list(shape)}, which is no matrix")
        shapes[role] = (shape[0], math.prod(shape[1:]))
        _check_dtype(key, tensors)

    def pair(left: str, right: str, rows: int, columns: int) -> int:
        """The rank of a product of two factors that must be [rows, columns]."""
        if left not in keys or right not in keys:
            raise _Misfit(f"{keys.get(left) or keys.get(right)} has no counterpart")
        rank = shapes[right][0]
        for role, wanted in ((left, (rows, rank)), (right, (rank, columns))):
            if shapes[role] != wanted:
                shown = list(tensors.infos[keys[role]].shape)
                raise _Misfit(f"{keys[role]} has shape {shown} instead of {list(wanted)}")
        return rank

    if family == "LoRA":
        return pair("up", "down", out, width)
    if family == "LoHa":
        return max(pair(f"hada_{w}_a", f"hada_{w}_b", out, width) for w in ("w1", "w2"))
    ranks, sizes = [], []
    for side in ("lokr_w1", "lokr_w2"):
        if side in keys:
            sizes.append(shapes[side])
            continue
        if not {f"{side}_a", f"{side}_b"} <= set(shapes):
            raise _Misfit(f"{next(iter(keys.values()))} has no whole {side} beside it")
        sizes.append((shapes[f"{side}_a"][0], shapes[f"{side}_b"][1]))
        ranks.append(pair(f"{side}_a", f"{side}_b", *sizes[-1]))
    made = [sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1]]
    if made != [out, width]:
        raise _Misfit(f"{next(iter(keys.values()))} makes {made} instead of {[out, width]}")
    return ranks[-1] if ranks else None


def _check_dtype(key: str, tensors: Tensors) -> None:
    if tensors.infos[key].dtype not in DTYPES:
        dtype = tensors.infos[key].dtype
        raise _Misfit(f"{key} has dtype {dtype}, which is not {', '.join(DTYPES)}")


def _open(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a file, and PEFT's settings where they are written down."""
    if not path.is_file():
        raise UserError(f"there is no LoRA file {path}")
    if path.suffix in TORCH_SUFFIXES:
        return open_tensors(path, None, lambda names: True)[0], {}
    file = TensorFile(path)
    told: str | bytes | None = file.metadata.get(METADATA)
    beside = path.with_name("adapter_config.json")
    if told is None and path.name.startswith("adapter_model") and beside.is_file():
        told = beside.read_bytes()
    settings = parse_json(told or "{}", f"the settings of {path}")
    if not isinstance(settings, dict):
        raise UserError(f"the settings of {path} are not a JSON object")
    settings = {key.removeprefix("transformer."): value for key, value in settings.items()}
    if settings.get("alpha_pattern"):
        raise UserError(f"{path} has alpha_pattern, which bvjax does not merge")
    for name in ("lora_alpha", "alpha"):
        if type(settings.get(name, 1)) not in (int, float):
            raise UserError(f"the settings of {path} have {name} {settings[name]!r}, not a number")
    if settings.get("use_dora") and not any("magnitude" in key for key in file.infos):
        raise UserError(f"{path} is a DoRA by its settings, but holds no magnitudes")
    return Tensors(file.infos, file.read), settings
