"""The maps from latents to colours of a weights folder, kept between processes beside its text states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bvjax.array_files import read_npz
from bvjax.denoiser.watch import Watch
from bvjax.errors import UserError
from bvjax.files import npz_bytes
from bvjax.finite import is_finite
from bvjax.generate import preview
from bvjax.loading.bundle import Bundle
from bvjax.loading.cache_folder import cache_folder, file_sha256, save_quietly

_VERSION = "1"  # of how maps are fitted

Maps = tuple[Float[np.ndarray, "z1 3"], Float[np.ndarray, "z1 3"]]


def watch_of(
    bundle: Bundle,
    tell: Callable[[Any, Any, Any], None],
    decoder: Mapping[str, np.ndarray] | None = None,
) -> Watch | None:
    """A `Watch` of chunks of these weights; None where several devices make them, which nobody watches.

    Args:
        decoder: of `load_preview_decoder`; None takes the maps from latents to colours.
    """
    if bundle.layout.mesh is not None:
        return None
    if decoder is not None:
        return Watch(None, None, tell, {name: jnp.asarray(x) for name, x in decoder.items()})
    first, later = maps(bundle)
    return Watch(jnp.asarray(first), jnp.asarray(later), tell)


def maps(bundle: Bundle) -> Maps:
    """(map of a first latent, map of the others), fitted where they are not kept yet (`preview.fit`)."""
    folder, config = cache_folder(), bundle.model.vae
    if folder is None:
        return preview.fit(bundle.params["vae"], config)
    name = file_sha256(bundle.folder / "vae.safetensors", folder)
    path = folder / "colours" / f"{_VERSION}-{name}.npz"
    try:
        stored = read_npz(path)
        found = (stored["first"], stored["later"])
        shape = (config.z_dim + 1, 3)
        if all(m.shape == shape and m.dtype == np.float32 and is_finite(m) for m in found):
            return found
    except (OSError, KeyError, UserError):
        pass  # not there yet, or damaged: made again
    first, later = preview.fit(bundle.params["vae"], config)
    save_quietly(path, npz_bytes(first=first, later=later))
    return first, later
