"""Weights on disk: safetensors with names "block/dense/kernel", and the weights folder.

A weights folder is {dit,vae,text}.safetensors, tokenizer.model and config.json (the model's
configuration and, per part, what made it: seed, commit, metrics).  Parts are trained and saved one
after the other; a folder may hold only some.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import write_atomic
from bvjax.overrides import from_dict, to_dict

PARTS = ("dit", "vae", "text")
DTYPES = ("float32", "bfloat16", "float16")
TOKENIZER = "tokenizer.model"
Params = Any


def save_tensors(
    path: Path, params: Params, metadata: Mapping[str, str] | None = None, dtype: str = "float32"
) -> None:
    """Writes a nested dict of arrays atomically: `path` is the old file or the whole new one.

    Raises:
        UserError: `dtype` is not float32, bfloat16 or float16; a value does not fit it.
    """
    if dtype not in DTYPES:
        raise UserError(f"weights dtype is {dtype!r}; it can be {', '.join(DTYPES)}")
    flat = {}
    for name, value in flatten(params).items():
        with np.errstate(over="ignore"):  # reported below, by name
            flat[name] = np.asarray(value).astype(jnp.dtype(dtype), order="C")
        if not np.isfinite(flat[name].astype(np.float32)).all():
            raise UserError(f"weights {name!r} have values that are not finite in {dtype}")
    write_atomic(Path(path), save(flat, dict(metadata or {})))


def load_tensors(path: Path, like: Params) -> Params:
    """Reads a nested dict of float32 arrays with exactly the names and shapes of `like`.

    Args:
        like: `jax.eval_shape` of the initialisation.

    Raises:
        UserError: the file is missing or damaged, or tensors are missing, extra, of another shape
            or not floating point; one message with the whole list.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        with safe_open(path, "numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error})") from None
    wanted = flatten(like)
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"extra {name}" for name in found if name not in wanted]
    for name in sorted(set(wanted) & set(found)):
        if found[name].shape != tuple(wanted[name].shape):
            shapes = f"{list(found[name].shape)} instead of {list(wanted[name].shape)}"
            problems.append(f"{name} has shape {shapes}")
        if found[name].dtype.name not in DTYPES:
            problems.append(f"{name} has dtype {found[name].dtype.name}")
    if problems:
        raise UserError(f"{path} does not fit the model: {'; '.join(problems)}")
    return flax.traverse_util.unflatten_dict(
        {name: found[name].astype(np.float32) for name in wanted}, sep="/"
    )


def save_weights(
    folder: Path,
    model: ModelConfig,
    params: Mapping[str, Params],
    *,
    tokenizer: Path | None = None,
    meta: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> None:
    """Adds parts to a weights folder, or replaces them.

    config.json keeps the sections of the parts that were there before: saving the VAE changes the
    section `vae` only; saving the DiT brings every section but `vae` and `text`.

    Args:
        params: {"vae": tree, ...}, some of dit, vae and text.
        meta: what made these parts; stored under each part's name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _check_parts(params)
    stored = {"model": to_dict(model), "made": {}}
    if (folder / "config.json").exists():
        stored = _read_config(folder)
        old = from_dict(ModelConfig, stored["model"])
        kept = {p: getattr(old, p) for p in ("vae", "text") if p not in params}
        base = model if "dit" in params else old
        new = {p: getattr(model, p) for p in params}
        stored["model"] = to_dict(dataclasses.replace(base, **kept, **new))
    for part, tree in params.items():
        save_tensors(folder / f"{part}.safetensors", tree, {"part": part}, dtype)
        stored["made"][part] = dict(meta or {})
    if tokenizer is not None and Path(tokenizer).resolve() != (folder / TOKENIZER).resolve():
        write_atomic(folder / TOKENIZER, Path(tokenizer).read_bytes())
    write_atomic(folder / "config.json", (json.dumps(stored, indent=2) + "\n").encode())


def load_weights(
    folder: Path, parts: Iterable[str] = PARTS
) -> tuple[ModelConfig, dict[str, Params]]:
    """The configuration of a weights folder and the float32 parameters of `parts`.

    Raises:
        UserError: anything missing, damaged or not fitting the configuration.
    """
    folder, parts = Path(folder), tuple(parts)
    _check_parts(parts)
    model = load_config(folder)
    return model, {
        part: load_tensors(folder / f"{part}.safetensors", shapes(model, part)) for part in parts
    }


def load_config(folder: Path) -> ModelConfig:
    """The model configuration of a weights folder; raises `UserError`."""
    return from_dict(ModelConfig, _read_config(Path(folder))["model"])


def load_made(folder: Path, part: str) -> dict[str, Any]:
    """What made a part (configuration, commit, metrics), {} if nothing is known; `UserError`."""
    return dict(_read_config(Path(folder))["made"].get(part, {}))


def shapes(model: ModelConfig, part: str) -> Params:
    """Names, shapes and dtypes of a part's parameters, without making them."""
    # Imported here: reading a file needs no network code.
    from bvjax.nets import dit, text, vae

    init = {
        "dit": lambda key: dit.init_params(model.dit, model.text.dim, key),
        "vae": lambda key: vae.init_params(model.vae, key),
        "text": lambda key: text.init_params(model.text, key),
    }[part]
    return jax.eval_shape(init, jax.random.key(0))


def flatten(params: Params) -> dict[str, Any]:
    """{"a/b/kernel": leaf}, sorted by name."""
    return dict(sorted(flax.traverse_util.flatten_dict(params, sep="/").items()))


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a weights folder: it has no config.json")
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(stored, dict) or set(stored) != {"model", "made"}:
        raise UserError(f"{path} is damaged: it must have exactly the keys model and made")
    return stored


def _check_parts(parts: Iterable[str]) -> None:
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise UserError(f"unknown parts {', '.join(unknown)}; a model has {', '.join(PARTS)}")
