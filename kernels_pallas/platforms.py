"""Choice of the form of a kernel by platform: `implementation` arguments are resolved here, for all kernels."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

import jax

PLATFORMS = ("cpu", "gpu", "tpu")


def platform_of(device: jax.Device) -> str:
    """cpu, gpu or tpu, of a device of this machine or of a described topology."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


def resolve(kernel: str, implementation: str, by_platform: Mapping[str, str]) -> str:
    """The form of `kernel` to run.

    Args:
      kernel: its name, for the log.
      implementation: `auto` (what suits the default backend), a platform (what `auto` takes
        there: programs compiled here for another machine ask so), or a form by name.
      by_platform: what `auto` takes on each of `PLATFORMS`; may hold more pairs, form -> form, for
        forms that `auto` never takes.

    Raises:
      ValueError: the name is none of these.
    """
    forms = tuple(dict.fromkeys((*by_platform.values(), *(set(by_platform) - set(PLATFORMS)))))
    if implementation in forms:
        return implementation
    if implementation not in ("auto", *PLATFORMS):
        raise ValueError(
            f"implementation={implementation!r} is unknown; "
            f"use one of {', '.join(('auto', *sorted(forms), *PLATFORMS))}"
        )
    platform = implementation
    if platform == "auto":
        platform = _default_platform()
    form = by_platform[platform]
    say_once(f"{kernel}: {form} (on {platform})")
    return form


def _default_platform() -> str:
    """That of `jax.default_device`, which is part of the key of every trace, or of the first device."""
    chosen = getattr(jax.config, "jax_default_device")  # noqa: B009
    if isinstance(chosen, str):
        chosen = jax.devices(chosen)[0]
    return platform_of(jax.devices()[0] if chosen is None else chosen)


@functools.cache
def say_once(text: str) -> None:
    """Logs `text` the first time that it is said in this process."""
    logging.getLogger("bvjax").info(text)
