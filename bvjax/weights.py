"""Weights on disk: safetensors with names "blocks/0/ffn/0/kernel", and the weights folder.

Layers are stacked in memory ("blocks/ffn/0/kernel" [layers, in, out], for `nn.scan`) and apart on disk.

A weights folder is {dit,vae,text}.safetensors, tokenizer.model and config.json (the model's
configuration and, per part, what made it: seed, commit, metrics).  Parts are trained and saved one
after the other; a folder may hold only some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json, write_atomic, write_json
from bvjax.finite import is_finite
from bvjax.overrides import from_dict, to_dict
from bvjax.plain_text import listed
from bvjax.tensor_files import TensorFile, TensorInfo, TensorWriter

PARTS = ("dit", "vae", "text")
DTYPES = ("float32", "bfloat16", "float16")
TOKENIZER = "tokenizer.model"
STACKED = "blocks/"  # leaves of the scanned layers begin so
LARGE = 2**30  # bytes; reading more shows a progress bar
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
    flat = flatten(params)
    on_disk = disk_names(flat)
    infos = {name: TensorInfo(shape, dtype) for name, shape in disk_shapes(flat).items()}
    with TensorWriter(Path(path), infos, metadata) as writer:
        for name, (leaf, layer) in on_disk.items():
            value = np.asarray(flat[leaf] if layer is None else flat[leaf][layer])
            with np.errstate(over="ignore"):  # reported below, by name
                stored = value.astype(jnp.dtype(dtype))
            if not is_finite(stored):
                raise UserError(f"weights {name!r} have values that are not finite in {dtype}")
            writer.write(name, stored)


def load_tensors(
    path: Path,
    like: Params,
    *,
    dtype: str | None = "float32",
    sharding: Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None = None,
) -> Params:
    """Reads a nested dict of arrays with exactly the names and shapes of `like`.

    Args:
        like: `jax.eval_shape` of the initialisation.
        dtype: of the arrays; None leaves each as it is stored.
        sharding: of the leaf called (name, shape).  With it leaves are JAX arrays, of which each
            process reads the parts that its own devices hold; without it NumPy arrays.

    Raises:
        UserError: the file is missing or damaged, or tensors are missing, extra, of another shape
            or not floating point (one message with the whole list), or have values that are not
            finite.
    """
    file, expected = check_tensors(path, like), flatten(like)
    on_disk = disk_names(expected)
    files: dict[str, list[str]] = {}
    for name, (leaf, _) in on_disk.items():
        files.setdefault(leaf, []).append(name)
    size = sum(info.nbytes for info in file.infos.values())
    loaded = {}
    with tqdm(
        total=size,
        unit="B",
        unit_scale=True,
        desc=f"reading {Path(path).name}",
        disable=True if size < LARGE else None,
    ) as bar:
        for leaf, names in files.items():
            loaded[leaf] = _read_leaf(
                file, names, tuple(expected[leaf].shape), leaf, dtype, sharding
            )
            bar.update(sum(file.infos[name].nbytes for name in names))
    return flax.traverse_util.unflatten_dict({name: loaded[name] for name in expected}, sep="/")


def check_tensors(path: Path, like: Params) -> TensorFile:
    """Opens a file whose tensors have the names and shapes of `like`; raises as `load_tensors`."""
    file = TensorFile(path)
    problems = mismatches(file.infos, disk_shapes(flatten(like)))
    if problems:
        raise UserError(f"{path} does not fit the model: {'; '.join(problems)}")
    return file


def check_values(file: TensorFile) -> None:
    """Reads all tensors of a file, one at a time; raises `UserError` for one that is not finite."""
    for name in file.infos:
        if not is_finite(file.read(name)):
            raise not_finite(file.path, name)


def not_finite(path: Path, name: str, dtype: str | None = None) -> UserError:
    """The refusal of a tensor with NaN or infinity in it, or that overflows when read as `dtype`."""
    sentence = f"{path} has values that are not finite (NaN or infinite) in {name}"
    return UserError(sentence + (f" when read as {dtype}: take a wider dtype" if dtype else ""))


def mismatches(
    actual: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Lists the differences of tensors from the expected names and shapes: up to four phrases,
    each of one kind, with the first five names and the number of the others."""
    common = sorted(set(expected) & set(actual))
    shapes = [
        f"{name} has shape {list(actual[name].shape)} instead of {list(expected[name])}"
        for name in common
        if actual[name].shape != expected[name]
    ]
    dtypes = [
        f"{name} has dtype {actual[name].dtype}, which is not {', '.join(DTYPES)}"
        for name in common
        if actual[name].dtype not in DTYPES
    ]
    kinds = {
        "missing ": sorted(set(expected) - set(actual)),
        "extra ": sorted(set(actual) - set(expected)),
    }
    problems = [f"{kind}{listed(names)}" for kind, names in kinds.items() if names]
    return problems + [listed(texts, between="; ") for texts in (shapes, dtypes) if texts]


def _read_leaf(file: TensorFile, names, shape, leaf, dtype, sharding):
    """One leaf: a tensor of the file, or the same tensor of all layers, stacked on axis 0."""
    stacked = leaf.startswith(STACKED)
    kind = jnp.dtype(dtype or file.infos[names[0]].dtype)

    def tensor(name: str, index: tuple[slice, ...]) -> np.ndarray:
        stored = file.read(name, index)
        with np.errstate(over="ignore"):  # reported here, by name
            part = stored.astype(kind, copy=False)
        if is_finite(part):
            return part
        raise not_finite(file.path, name, kind.name if is_finite(stored) else None)

    def read(index: tuple[slice, ...] = (slice(None),) * len(shape)) -> np.ndarray:
        if not stacked:
            return tensor(names[0], index)
        return np.stack([tensor(name, index[1:]) for name in names[index[0]]])

    if sharding is None:
        return read()
    return jax.make_array_from_callback(shape, sharding(leaf, shape), read)


def disk_names(flat: Mapping[str, Any]) -> dict[str, tuple[str, int | None]]:
    """{name on disk: (leaf in memory, layer)}: stacked leaves "blocks/a" are "blocks/0/a" on disk.

    Layers come in order; names of other leaves are the same, with layer None.
    """
    result: dict[str, tuple[str, int | None]] = {}
    for leaf, value in flat.items():
        if leaf.startswith(STACKED):
            rest = leaf.removeprefix(STACKED)
            result |= {f"{STACKED}{i}/{rest}": (leaf, i) for i in range(value.shape[0])}
        else:
            result[leaf] = (leaf, None)
    return result


def disk_shapes(flat: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{name on disk: shape}, see `disk_names`."""
    return {
        name: tuple(flat[leaf].shape[0 if layer is None else 1 :])
        for name, (leaf, layer) in disk_names(flat).items()
    }


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
    for part, tree in params.items():
        save_tensors(folder / f"{part}.safetensors", tree, {"part": part}, dtype)
    save_config(folder, model, {part: dict(meta or {}) for part in params}, tokenizer=tokenizer)


def save_config(
    folder: Path,
    model: ModelConfig,
    metadata: Mapping[str, Mapping[str, Any]],
    *,
    tokenizer: Path | None = None,
) -> None:
    """Writes config.json after the parts named in `metadata`; see `save_weights`."""
    stored = config_with(folder, model, metadata)
    if tokenizer is not None:
        name = "tokenizer.json" if Path(tokenizer).suffix == ".json" else TOKENIZER
        if Path(tokenizer).resolve() != (folder / name).resolve():
            write_atomic(folder / name, Path(tokenizer).read_bytes())
    write_json(folder / "config.json", stored)


def config_with(
    folder: Path, model: ModelConfig, metadata: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of config.json with the parts named in `metadata` added; `UserError` if it is damaged."""
    stored = {"model": to_dict(model), "made": {}}
    if (folder / "config.json").exists():
        stored = _read_config(folder)
        old = _model_of(folder, stored)
        old_sections = {p: getattr(old, p) for p in ("vae", "text") if p not in metadata}
        base = model if "dit" in metadata else old
        new_sections = {p: getattr(model, p) for p in metadata}
        stored["model"] = to_dict(dataclasses.replace(base, **old_sections, **new_sections))
    stored["made"] |= {part: dict(entry) for part, entry in metadata.items()}
    return stored


def load_weights(
    folder: Path,
    parts: Iterable[str] = PARTS,
    *,
    dtype: str | None = "float32",
    sharding: Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None = None,
) -> tuple[ModelConfig, dict[str, Params]]:
    """The configuration of a weights folder and the parameters of `parts`; see `load_tensors`.

    Raises:
        UserError: anything missing, damaged or not fitting the configuration.
    """
    folder, parts = Path(folder), tuple(parts)
    _check_parts(parts)
    model = load_config(folder)
    return model, {
        part: load_tensors(
            folder / f"{part}.safetensors", shapes(model, part), dtype=dtype, sharding=sharding
        )
        for part in parts
    }


def load_config(folder: Path) -> ModelConfig:
    """The model configuration of a weights folder; raises `UserError`."""
    return _model_of(folder, _read_config(Path(folder)))


def load_made(folder: Path, part: str) -> dict[str, Any]:
    """The metadata of a part (configuration, commit, metrics), {} if there are none; `UserError`."""
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
    stored = read_json(path)
    if not isinstance(stored, dict) or set(stored) != {"model", "made"}:
        raise UserError(f"{path} is damaged: it must have exactly the keys model and made")
    objects = [stored["model"], stored["made"]]
    if isinstance(stored["made"], dict):
        objects += stored["made"].values()
    if not all(isinstance(value, dict) for value in objects):
        raise UserError(f"{path} is damaged: model, made and what is in made must be objects")
    for part, entry in stored["made"].items():
        for name in ("stage", "sampler"):
            if not isinstance(entry.get(name), str | None):
                raise UserError(f"{path} is damaged: the {name} of {part} must be a word")
    return stored


def _model_of(folder: Path, stored: Mapping[str, Any]) -> ModelConfig:
    try:
        return from_dict(ModelConfig, stored["model"])
    except UserError as error:
        raise UserError(f"{Path(folder) / 'config.json'} is damaged: {error}") from None


def _check_parts(parts: Iterable[str]) -> None:
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise UserError(f"unknown parts {', '.join(unknown)}; a model has {', '.join(PARTS)}")
