"""Names in LoRA files: each key names a module of the DiT, and the role of a tensor for it.

A module is called as in the original Wan format or in diffusers', after the words of wrappers and
trainers ("diffusion_model.blocks.0.self_attn.q"), or with underscores for dots as kohya's trainers,
musubi-tuner and LyCORIS write it ("lora_unet_blocks_0_self_attn_q").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from bvjax.conversion.wrappers import WRAPPERS, unwrap
from bvjax.errors import UserError

PREFIX_WORDS = WRAPPERS | {"base_model", "transformer", "dit"}
_FLAT = re.compile(r"(?:lora|lycoris)_(?:(?:unet|transformer|dit|diffusion_model)_)?")
# PEFT writes the adapter's name inside: lora_A.default.weight.
ROLES = {
    "down": r"lora[._](?:A|down)(?:\.\w+)?\.weight",
    "up": r"lora[._](?:B|up)(?:\.\w+)?\.weight",
    "up_bias": r"lora[._](?:B|up)(?:\.\w+)?\.bias",
    "alpha": r"alpha",
    "magnitude": r"dora_scale|lora_magnitude_vector(?:\.\w+){0,2}",
    "diff": r"diff|w_norm",
    "diff_b": r"diff_b|b_norm",
    "diff_m": r"diff_m",
    **{f"hada_{x}": f"hada_{x}" for x in ("w1_a", "w1_b", "w2_a", "w2_b")},
    **{f"lokr_{x}": f"lokr_{x}" for x in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")},
}
# Other changes of weights that are published as files like LoRA's.
UNSUPPORTED = {
    "LoRA with a Tucker core": r"lora_mid\.weight|hada_t[12]|lokr_t2",
    "OFT": r"oft_\w+(?:\.\w+)?(?:\.weight)?",
    "GLoRA": r"[ab][12](?:\.weight)?",
    "IA3": r"ia3_l(?:\.\w+)?(?:\.weight)?|on_input",
    "VeRA": r"vera_\w+(?:\.\w+)?",
    "LoRA of an embedding": r"lora_embedding_[AB](?:\.\w+)?",
}
_ROLES = [(role, re.compile(rf"(.+)\.(?:{pattern})")) for role, pattern in ROLES.items()]
_UNSUPPORTED = [
    (name, re.compile(rf"(.+)\.(?:{pattern})")) for name, pattern in UNSUPPORTED.items()
]


class KeyTarget(NamedTuple):
    """The module and the role of a key."""

    module: str  # as in the original format or diffusers'
    role: str  # one of `ROLES`; diff_m is the `diff` of the modulation inside the module


class KeyParser:
    """Parses the keys of LoRA files for a DiT with given modules."""

    def __init__(self, modules: Iterable[str]):
        """Takes the modules' names in all formats."""
        self._modules = set(modules)
        self._flat = {module.replace(".", "_"): module for module in self._modules}

    def parse(self, key: str) -> KeyTarget | None:
        """Returns the target of a key; None for an unknown module or role.

        Raises:
            UserError: the key is of a format that is not merged, which the message names.
        """
        for role, pattern in _ROLES:
            match = pattern.fullmatch(key)
            if match:
                module, role = match[1], role
                if role == "diff_m":
                    module, role = f"{module}.modulation", "diff"
                module_name = self._find_module(module)
                return None if module_name is None else KeyTarget(module_name, role)
        for name, pattern in _UNSUPPORTED:
            match = pattern.fullmatch(key)
            if match and self._find_module(match[1]) is not None:
                raise UserError(f"it is of the format {name} ({key}), which bvjax does not merge")
        return None

    def _find_module(self, text: str) -> str | None:
        module = unwrap(f"{text}.", PREFIX_WORDS).removesuffix(".")
        if module in self._modules:
            return module
        # "_orig_mod" and the like begin with an underscore, so that they show among underscores too
        words = "|".join(word for word in PREFIX_WORDS if word.startswith("_"))
        underscored = re.sub(rf"_(?:{words})(?=_)", "", f"_{module}").removeprefix("_")
        return self._flat.get(_FLAT.sub("", underscored.replace(".", "_"), count=1))
