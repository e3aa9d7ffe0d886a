"""Checks that weights are what a run began with, and that a configuration can be used with them."""

from __future__ import annotations

import dataclasses
import pathlib

from absl import logging

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.files import read_json_object
from bvjax.loading.bundle import Bundle
from bvjax.plain_text import listed
from bvjax.runs.run_dir import RunDir
from bvjax.stages import check_sampler
from bvjax.versions import versions

FREE = ("dit.dtype", "dit.remat", "text.dtype")  # weights do not fix these


def check_weights(run: RunDir, bundle: Bundle, further: bool = False) -> None:
    """Raises `UserError` unless `bundle` is what the run began with.

    With `further` it may have LoRAs behind those of the run.
    """
    if bundle.sha256 != run.settings.weights_sha256:
        raise UserError(
            f"the weights in {bundle.folder} are not those that {run.path} began with "
            f"({run.settings.weights}); give the right folder with `weights`"
        )
    own = run.settings.lora_sha256
    if (bundle.loras.sha256[: len(own)] if further else bundle.loras.sha256) != own:
        names = [pathlib.PurePath(file).name for file in run.settings.lora_files]
        raise UserError(
            f"{run.path} was begun with {listed(names) if names else 'no'} "
            f"LoRA{'s' if len(names) > 1 else ''}, and these are not the very same files; give those, in their "
            "order, with `lora`"
        )
    try:
        check_fit(bundle, run.settings.model)
    except UserError as error:
        raise UserError(f"the run folder {run.path} is damaged: {error}") from None


def check_fit(bundle: Bundle, model: ModelConfig) -> None:
    """Raises `UserError` for a configuration that these weights cannot be used with."""
    if not bundle.loras:  # one of those may be what makes weights leap
        check_sampler(bundle.stage, model.sampler.kind, bundle.sampler)
    _check_architecture(bundle.model, model)


def _check_architecture(trained: ModelConfig, model: ModelConfig) -> None:
    """Raises `UserError` for an override of something that the weights fix."""
    for section in ("dit", "vae", "text"):
        before, after = getattr(trained, section), getattr(model, section)
        for field in dataclasses.fields(before):
            key, old, new = field.name, getattr(before, field.name), getattr(after, field.name)
            if old != new and f"{section}.{key}" not in FREE:
                raise UserError(
                    f"{section}.{key} is {old!r} in these weights; it cannot be set to {new!r}"
                )


def compare_versions(run: RunDir) -> None:
    """Warns when the run began with software that may round differently."""
    path, now = run.path / "versions.json", versions()
    try:
        before = read_json_object(path) if path.exists() else {}
    except UserError as error:
        logging.warning("%s: whether this run began with the same software is not known", error)
        return
    for name in ("jax", "jaxlib", "backend", "device"):
        if before.get(name, now[name]) != now[name]:
            logging.warning(
                "this run began with %s %.100s and goes on with %s: new chunks may differ in last bits",
                name,
                before[name],
                now[name],
            )
