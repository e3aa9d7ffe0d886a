"""manifest.json of a folder of encoded examples: which weights made them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.numpy import load_file

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json, write_atomic
from bvjax.nets import vae
from bvjax.weights import TOKENIZER

MANIFEST = "manifest.json"
FACTS = ("text.safetensors", TOKENIZER, "encoder", "latents", "chunk")  # that it has, as text


def weights_facts(folder: str | Path, model: ModelConfig) -> dict[str, str]:
    """Hashes of what encoded examples depend on; the VAE's decoder is none of it."""
    files = {name: (Path(folder) / name).read_bytes() for name in ("text.safetensors", TOKENIZER)}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    tensors = load_file(Path(folder) / "vae.safetensors")
    encoder = hashlib.sha256()
    for name in sorted(tensors):
        if name.split("/")[0] in vae.ENCODING:
            encoder.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
            encoder.update(tensors[name].tobytes())
    normalised: tuple = (model.vae.latent_mean, model.vae.latent_std, model.vae.latent_scale)
    if model.vae.first_std:
        normalised += (model.vae.first_mean, model.vae.first_std)
    return {
        **hashes,
        "encoder": encoder.hexdigest(),
        "latents": repr(normalised),
        "chunk": repr(model.chunk),
    }


def claim(root: Path, folder: str | Path, model: ModelConfig) -> None:
    """Makes `root` a folder of examples encoded by the weights in `folder`, by its manifest.json.

    Raises:
        UserError: `root` holds examples encoded by other weights.
    """
    facts, path = weights_facts(folder, model), root / MANIFEST
    if path.exists() and not _same_facts(read_json(path), facts):
        raise UserError(
            f"{root} holds examples encoded by other weights than {folder}; use another folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_atomic(path, json.dumps(facts, indent=1).encode())


def check_weights(root: str | Path, weights: str | Path, model: ModelConfig, make: str) -> None:
    """Raises `UserError` unless the examples in `root` were encoded by these weights.

    `make` ends the sentence about a folder without a manifest, for example "; make it with ...".
    """
    path = Path(root) / MANIFEST
    if not path.exists():
        raise UserError(f"{path} is missing{make}")
    if not _same_facts(read_json(path), weights_facts(weights, model)):
        raise UserError(f"the examples in {root} were encoded by other weights than {weights}")


def _same_facts(content: object, facts: dict[str, str]) -> bool:
    """Returns whether a manifest has these facts; further keys are ignored."""
    return isinstance(content, dict) and all(content.get(key) == facts[key] for key in facts)
