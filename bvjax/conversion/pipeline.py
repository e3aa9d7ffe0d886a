"""The scheduler and the index of a diffusers pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import logging

from bvjax.config import ModelConfig, SamplerConfig
from bvjax.conversion import formats
from bvjax.conversion.sources import Source
from bvjax.errors import UserError
from bvjax.files import read_json_object

SCHEDULER = "scheduler/scheduler_config.json"
# class -> (the sampler's kind, the name of its shift, its settings that this sampler stands for)
SCHEDULERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "UniPCMultistepScheduler": (
        "unipc",
        "flow_shift",
        {
            "num_train_timesteps": 1000,
            "solver_order": 2,
            "prediction_type": "flow_prediction",
            "thresholding": False,
            "predict_x0": True,
            "solver_type": "bh2",
            "lower_order_final": True,
            "disable_corrector": [],
            "solver_p": None,
            "use_karras_sigmas": False,
            "use_exponential_sigmas": False,
            "use_beta_sigmas": False,
            "use_flow_sigmas": True,
            "final_sigmas_type": "zero",
            "use_dynamic_shifting": False,
            "shift_terminal": None,
        },
    ),
    "FlowMatchEulerDiscreteScheduler": (
        "euler",
        "shift",
        {
            "num_train_timesteps": 1000,
            "use_dynamic_shifting": False,
            "invert_sigmas": False,
            "shift_terminal": None,
            "use_karras_sigmas": False,
            "use_exponential_sigmas": False,
            "use_beta_sigmas": False,
            "stochastic_sampling": False,
        },
    ),
}
MAX_SHIFT = 1000.0  # far above any pipeline's
# Of these settings the classes have other values where a file does not name them.
CLASS_DEFAULTS = {
    "UniPCMultistepScheduler": {"prediction_type": "epsilon", "use_flow_sigmas": False}
}


def read_sampler(sources: Sequence[Source], sampler: SamplerConfig) -> SamplerConfig:
    """`sampler` with the kind, shift and grid of the pipeline whose parts `sources` are.

    It stays as it is where there is no pipeline; where it is a few-step one, as distilled weights
    fit no other; and, with a warning, where bvjax has no such scheduler.

    Raises:
        UserError: the scheduler's file is damaged.
    """
    folders = [s.path.parent.parent for s in sources if s.format in ("diffusers", "transformers")]
    path = next((folder / SCHEDULER for folder in folders), None)
    if path is None or not path.is_file() or sampler.kind == "few_step":
        return sampler
    try:
        scheduler = read_json_object(path)
        name = scheduler["_class_name"]
        if name not in SCHEDULERS:
            logging.warning("%s is a %s, which bvjax has not; %s is kept", path, name, sampler.kind)
            return sampler
        kind, shift, settings = SCHEDULERS[name]
        scheduler = settings | CLASS_DEFAULTS.get(name, {}) | scheduler
        differences = [
            f"{key} {scheduler[key]!r}" for key in settings if scheduler[key] != settings[key]
        ]
        if differences:
            difference_text = ", ".join(differences)
            logging.warning(
                "%s has %s, which bvjax has not; %s is kept", path, difference_text, sampler.kind
            )
            return sampler
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged") from None
    shift_value = scheduler.get(shift, 1.0)
    if type(shift_value) not in (int, float) or not 0 < shift_value < MAX_SHIFT:
        raise UserError(
            f"{path} is damaged: {shift} is {str(shift_value)[:40]!r}, not a number above 0"
        )
    return dataclasses.replace(sampler, kind=kind, shift=float(shift_value), schedule="diffusers")


def files(model: ModelConfig, tokenizer: bool) -> dict[str, dict[str, Any]]:
    """{path: content} of the JSON files that make a pipeline of the parts of `model`.

    There is no scheduler for `sampler.schedule` "wan", whose place that of the same kind takes, nor for
    the list of a few-step sampler.  Parts that only bvjax knows are of no pipeline: they get no
    model_index.json.

    Args:
        tokenizer: whether there is one.
    """
    contents = {SCHEDULER: _scheduler(model.sampler)}
    if tokenizer:
        contents[f"{formats.TOKENIZER_FOLDERS['diffusers']}/tokenizer_config.json"] = {
            "tokenizer_class": "T5Tokenizer",
            "extra_ids": 0,  # those that the vocabulary has it has already
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        }
    if formats.plain_dit(model.dit) and formats.plain_vae(model.vae):
        contents["model_index.json"] = _index(model)
    return contents


def _scheduler(sampler: SamplerConfig) -> dict[str, Any]:
    name = (
        "UniPCMultistepScheduler" if sampler.kind == "unipc" else "FlowMatchEulerDiscreteScheduler"
    )
    _, shift, settings = SCHEDULERS[name]
    content = {"_class_name": name, **settings, shift: sampler.shift}
    if sampler.kind == "few_step":
        content["stochastic_sampling"] = True
    return content


def _index(model: ModelConfig) -> dict[str, Any]:
    kind, pipeline = "WanTransformer3DModel", "WanPipeline"
    if model.dit.fps_embedding:
        kind, pipeline = "SkyReelsV2Transformer3DModel", "SkyReelsV2DiffusionForcingPipeline"
    return {
        "_class_name": pipeline,
        "scheduler": ["diffusers", _scheduler(model.sampler)["_class_name"]],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", kind],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
