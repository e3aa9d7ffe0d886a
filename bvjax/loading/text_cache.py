"""Encoded captions on disk, so that the text encoder is loaded for new captions only.

One safetensors file per caption: `states` (rows of the caption's tokens; what follows them is
zeros), `embedding`, and `sha256` of both.  Its name is the hash of everything that decides the
states to the last bit: the encoder's file, the tokenizer's file, the encoder's configuration with
its dtype and length, the cleaned caption, and the software and kind and number of devices.
Files that no longer fit are never read; the folder may be emptied at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from safetensors.numpy import save

from bvjax.config import TextConfig
from bvjax.finite import is_finite
from bvjax.generate.conditions import CaptionStates
from bvjax.loading.cache_folder import save_quietly
from bvjax.tensor_files import TensorFile
from bvjax.tokenizer import clean

FORMAT = 1  # another number when `bvjax.nets.text` computes other states from the same weights


class TextCache:
    """The captions encoded by one text encoder: a `Cache` of `encode_captions`."""

    def __init__(self, folder: pathlib.Path | None, encoder: str, config: TextConfig):
        """`encoder`: hash of encoder and tokenizer.  Without a folder nothing is ever found."""
        self._folder, self._config = folder, config
        self._key_fields = {
            "format": FORMAT,
            "encoder": encoder,
            "config": dataclasses.asdict(config),
            "jax": jax.__version__,
            "backend": jax.default_backend(),
            "devices": jax.device_count(),
        }

    def path(self, caption: str) -> pathlib.Path | None:
        """The path at which the states of a caption are or will be."""
        if self._folder is None:
            return None
        text = json.dumps(self._key_fields | {"caption": clean(caption)}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"

    def load(self, caption: str) -> CaptionStates | None:
        """The states of a caption, bit-exact; None when there are none, or damaged ones (with a warning)."""
        path = self.path(caption)
        if path is None or not path.exists():
            return None
        try:
            return self._read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logging.warning("%s is damaged (%s): its caption is encoded again", path, error)
            return None

    def save(self, caption: str, encoded: CaptionStates) -> None:
        """Keeps the states of a caption if they are finite; a full disk is only warned of."""
        path = self.path(caption)
        if path is not None and is_finite(encoded.states) and is_finite(encoded.embedding):
            arrays = {
                "states": encoded.states,
                "embedding": encoded.embedding,
                "sha256": _hash(encoded),
            }
            arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            save_quietly(path, save(arrays, {"caption": clean(caption)}))

    def _read(self, path: pathlib.Path) -> CaptionStates:
        file, config = TensorFile(path), self._config
        encoded = CaptionStates(file.read("states"), file.read("embedding"))
        if not np.array_equal(file.read("sha256"), _hash(encoded)):
            raise ValueError("its content does not match its hash")
        n = len(encoded.states)
        if not (0 < n <= config.max_length and encoded.states.shape == (n, config.dim)):
            raise ValueError(f"its states have shape {list(encoded.states.shape)}")
        if encoded.states.dtype != jnp.dtype(config.dtype):
            raise ValueError(f"its states are {encoded.states.dtype}")
        if not (is_finite(encoded.states) and is_finite(encoded.embedding)):
            raise ValueError("its states are not finite")
        return encoded


def _hash(encoded: CaptionStates) -> np.ndarray:
    digest = hashlib.sha256()
    for array in (encoded.states, encoded.embedding):
        digest.update(f"{array.dtype.name} {array.shape} ".encode() + array.tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
