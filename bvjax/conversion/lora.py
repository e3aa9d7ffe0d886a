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
from bvjax.conversion.tables import TensorSpec
from bvjax.conversion.tensors import Tensors
from bvjax.errors import UserError
from bvjax.files import parse_json
from bvjax.plain_text import listed
from bvjax.tensor_files import TensorFile
from bvjax.weights import DTYPES

METADATA = "lora_adapter_metadata"  # where diffusers keeps PEFT's settings


class TensorChange(NamedTuple):
    """The change that a LoRA file makes to one tensor."""

    spec: TensorSpec  # its names and shapes here and in the file
    keys: Mapping[str, str]  # of the file, by their role
    scale: float = 1.0  # of the product: alpha / rank


@dataclasses.dataclass(frozen=True)
class Lora:
    """An opened file that fits the model."""

    path: Path
    strength: float
    changes: Mapping[str, TensorChange]  # by the name of our tensor on disk
    read: Callable[[str], np.ndarray]


def parse(text: str) -> tuple[Path, float]:
    """Parses FILE or FILE:STRENGTH (1 by default) to (path, strength); raises `UserError`."""
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
    tensors, settings = _open(path)
    weights, biases = _targets(model)
    key_parser = lora_names.KeyParser([*weights, *biases])
    modules: dict[str, dict[str, str]] = {}
    unmatched, problems = [], []
    for key in tensors.infos:
        try:
            target = key_parser.parse(key)
        except UserError as error:
            raise UserError(f"{path} does not fit the DiT: {error}") from None
        if target is None or target.module not in (
            biases if target.role in ("diff_b", "up_bias") else weights
        ):
            unmatched.append(key)
        elif target.role in modules.setdefault(target.module, {}):
            problems.append(f"{key} is there twice")
        else:
            modules[target.module][target.role] = key
    if unmatched:
        problems.append(f"no tensor of this DiT is called {listed(sorted(unmatched))}")
    changes: dict[str, TensorChange] = {}
    for module, keys in modules.items():
        module_changes = []
        try:
            module_changes = _changes(
                weights.get(module), biases.get(module), keys, tensors, settings
            )
        except _MismatchError as error:
            problems.append(str(error))
        for change in module_changes:
            if changes.setdefault(change.spec.name, change) is not change:
                problems.append(f"{module} is there under two names")
    if problems:
        raise UserError(f"{path} does not fit the DiT: {listed(problems, between='; ')}")
    if not changes:
        raise UserError(f"{path} holds no LoRA")
    lora = Lora(path, strength, changes, tensors.read)
    if strength < 0:
        check_reversible(lora)
    return lora


def merge_tensor(loras: Sequence[Lora], name: str, array: np.ndarray) -> np.ndarray:
    """Our tensor `name` with all LoRAs in it, in float32; the same array if none changes it."""
    for lora in loras:
        change = lora.changes.get(name)
        if change is not None:
            array = array.astype(np.float32)
            array = array + _delta(lora, change, array)
    return array


def factors(lora: Lora, change: TensorChange) -> dict[str, np.ndarray]:
    """The tensors of a change by their role, in float32; those that are no factors (alpha) are left out."""
    roles = (*low_rank.FACTORS, "magnitude", "up_bias", "diff")
    return {
        role: lora.read(key).astype(np.float32)
        for role, key in change.keys.items()
        if role in roles
    }


def _delta(lora: Lora, change: TensorChange, array: np.ndarray) -> np.ndarray:
    """The change of `array`, float32, both with our axes."""
    weight, scale = change.spec.to_external(array), np.float32(change.scale)
    total = low_rank.change(factors(lora, change), scale, weight)
    return change.spec.to_internal(total * np.float32(lora.strength))


def check_reversible(lora: Lora) -> None:
    """Raises `UserError` for a change that a negative strength does not take out."""
    if any("magnitude" in change.keys for change in lora.changes.values()):
        raise UserError(
            f"{lora.path} is a DoRA: it cannot be taken out of weights again; use those before it"
        )


class _MismatchError(Exception):
    """An error that describes the mismatch of one module's tensors."""


def _targets(model: ModelConfig) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    """The weights and the biases of the DiT, by the module's name in every format.

    The formats' names do not contradict each other: where one has a name of the other's, as
    norm2 and norm3 are, only one of the two has parameters.
    """
    weights, biases = {}, {}
    for format_name in dit_names.FORMATS:
        for spec in formats.specs(model, "dit", format_name):
            module, _, leaf = spec.external_name.rpartition(".")
            if leaf == "bias":
                biases[module] = spec
            else:
                weights[module if leaf == "weight" else spec.external_name] = spec
    return weights, biases


def _changes(
    weight: TensorSpec | None, bias: TensorSpec | None, keys, tensors: Tensors, settings
) -> list[TensorChange]:
    """Returns the changes of a module's weight and bias; raises `_MismatchError`."""
    keys, changes = dict(keys), []
    bias_keys = {"up_bias": keys.pop("up_bias", None), "diff": keys.pop("diff_b", None)}
    bias_keys = {role: key for role, key in bias_keys.items() if key is not None}
    scale = 1.0
    if set(keys) - {"diff"}:
        scale = _scale(weight, keys, tensors, settings)
    for spec, keys_of_tensor in ((weight, keys), (bias, bias_keys)):
        full_changes = [key for role, key in keys_of_tensor.items() if role in ("up_bias", "diff")]
        for key in full_changes:
            shape, expected = tensors.infos[key].shape, spec.external_shape
            if shape != expected:
                raise _MismatchError(f"{key} has shape {list(shape)} instead of {list(expected)}")
            _check_dtype(key, tensors)
        if keys_of_tensor:
            changes.append(TensorChange(spec, keys_of_tensor, scale))
    if "up_bias" in bias_keys and ("down" not in keys or "magnitude" in keys):
        raise _MismatchError(f"{bias_keys['up_bias']} is of no LoRA that bvjax merges")
    return changes


def _scale(spec: TensorSpec, keys: Mapping[str, str], tensors: Tensors, settings) -> float:
    """alpha / rank of a product whose factors fit the weight; raises `_MismatchError`."""
    families = [
        name for name, roles in low_rank.FAMILIES.items() if not keys.keys().isdisjoint(roles)
    ]
    first_key = next(key for role, key in keys.items() if role != "diff")
    if not families:
        raise _MismatchError(f"{first_key} has no weights beside it")
    if len(families) > 1:
        raise _MismatchError(f"{first_key} is beside tensors of {' and '.join(families)}")
    out, *other_axes = spec.external_shape
    width = math.prod(other_axes)
    if not other_axes:
        raise _MismatchError(f"{first_key} is of a tensor with one axis, which has no rank")
    factors = {role: key for role, key in keys.items() if role in low_rank.FACTORS}
    rank = _check_factors(families[0], factors, out, width, tensors)
    if "magnitude" in keys:
        key, shape = keys["magnitude"], tensors.infos[keys["magnitude"]].shape
        if len(other_axes) > 1:
            raise _MismatchError(f"{key} is of a convolution, whose DoRA bvjax does not merge")
        if shape not in ((out,), (out, 1), (1, width)):
            raise _MismatchError(
                f"{key} has shape {list(shape)} instead of {[out]}, {[out, 1]} or {[1, width]}"
            )
        _check_dtype(key, tensors)
    if rank is None:  # LoKr of two whole factors is not scaled, whatever its alpha says
        return 1.0
    alpha = settings.get("lora_alpha", settings.get("alpha", rank))
    if "alpha" in keys:
        alpha = np.asarray(tensors.read(keys["alpha"]))
        alpha = float(alpha.reshape(-1)[0]) if alpha.size == 1 else math.nan
        if not math.isfinite(alpha):
            raise _MismatchError(f"{keys['alpha']} is not a finite number")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _check_factors(family: str, keys, out: int, width: int, tensors: Tensors) -> int | None:
    """The rank of the factors of an [out, width] weight, None if none is low; raises `_MismatchError`."""
    shapes = {}
    for role, key in keys.items():
        shape = tensors.infos[key].shape
        if len(shape) < 2 or not math.prod(shape):
            raise _MismatchError(f"{key} has shape {list(shape)}, which is no matrix")
        shapes[role] = (shape[0], math.prod(shape[1:]))
        _check_dtype(key, tensors)

    def pair(left: str, right: str, rows: int, columns: int) -> int:
        """The rank of a product of two factors that must be [rows, columns]."""
        if left not in keys or right not in keys:
            raise _MismatchError(f"{keys.get(left) or keys.get(right)} has no counterpart")
        rank = shapes[right][0]
        for role, expected in ((left, (rows, rank)), (right, (rank, columns))):
            if shapes[role] != expected:
                actual = list(tensors.infos[keys[role]].shape)
                raise _MismatchError(f"{keys[role]} has shape {actual} instead of {list(expected)}")
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
            raise _MismatchError(f"{next(iter(keys.values()))} has no whole {side} beside it")
        sizes.append((shapes[f"{side}_a"][0], shapes[f"{side}_b"][1]))
        ranks.append(pair(f"{side}_a", f"{side}_b", *sizes[-1]))
    product_shape = [sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1]]
    if product_shape != [out, width]:
        raise _MismatchError(
            f"{next(iter(keys.values()))} makes {product_shape} instead of {[out, width]}"
        )
    return ranks[-1] if ranks else None


def _check_dtype(key: str, tensors: Tensors) -> None:
    if tensors.infos[key].dtype not in DTYPES:
        dtype = tensors.infos[key].dtype
        raise _MismatchError(f"{key} has dtype {dtype}, which is not {', '.join(DTYPES)}")


def _open(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a file, and PEFT's settings where they are written down."""
    if not path.is_file():
        raise UserError(f"there is no LoRA file {path}")
    if path.suffix in TORCH_SUFFIXES:
        return open_tensors(path, None, lambda names: True)[0], {}
    file = TensorFile(path)
    metadata: str | bytes | None = file.metadata.get(METADATA)
    settings_file = path.with_name("adapter_config.json")
    if metadata is None and path.name.startswith("adapter_model") and settings_file.is_file():
        metadata = settings_file.read_bytes()
    settings = parse_json(metadata or "{}", f"the settings of {path}")
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
