"""Configuration of training, whatever is trained: the section `train` of a config."""

from __future__ import annotations

import dataclasses

from bvjax.errors import UserError

MOST = 2**31 - 1  # the state counts its steps in 32 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Lengths, sizes and intervals of a run.  All `every` are in steps; 0 means never."""

    steps: int
    global_batch_size: int  # examples a step, whatever the number of devices
    seed: int = 0
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 500
    keep: int = 2  # checkpoints
    max_skipped: int = 10  # updates left out because they were not finite; one more stops the run
    hang_seconds: int = 3600  # without a step the process prints where it is, and ends; 0 = never

    def __post_init__(self):
        check_range(self, "train", least=1, names=("steps", "global_batch_size", "keep"))
        check_range(self, "train", names=("log_every", "sample_every", "checkpoint_every"))
        check_range(self, "train", names=("max_skipped", "hang_seconds"))
        check_range(self, "train", least=-MOST, names=("seed",))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneModelConfig(LoopConfig):
    """The loop, and how the update of `one_model.OneModelTask` is cut and averaged."""

    # Examples at once on one device, or on those that share them (all axes of a mesh but `data`);
    # accumulation is derived.
    device_batch_size: int
    mesh: str = ""  # like data=2,fsdp=4, see `bvjax.sharding`; "" = one device
    ema_decay: float = 0.999

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "train", least=1, names=("device_batch_size",))
        if not 0.0 <= self.ema_decay < 1.0:
            raise UserError(
                f"train.ema_decay is {self.ema_decay}; it must be 0 or more and below 1"
            )


def check_range(
    section: object, where: str, names: tuple[str, ...], least: int = 0, most: int = MOST
) -> None:
    """Raises `UserError` for a whole number of a section of a config that is out of range."""
    for name in names:
        value = getattr(section, name)
        if not least <= value <= most:
            raise UserError(f"{where}.{name} is {value}; it must be {least} to {most}")
