"""Configuration of a run of training: one dataclass for each task, and its form on the command line.

A config file builds an experiment and returns `as_config(experiment)`.  The ConfigDict is what the command line
changes, by the names of the fields (`--config.model.vae.dim=96`): ml_collections cannot set the fields of frozen
dataclasses, and values that only fit together are checked together, when the experiment is built again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bvjax.config import ModelConfig
from bvjax.errors import UserError
from bvjax.losses.adversarial import AdversarialConfig
from bvjax.losses.block_forcing import BlockForcingConfig
from bvjax.losses.consistency import ConsistencyConfig
from bvjax.losses.critic_levels import CriticLevelsConfig
from bvjax.losses.history import HistoryConfig
from bvjax.losses.levels import LevelsConfig
from bvjax.losses.ode_regression import OdeConfig
from bvjax.losses.self_forcing import SelfForcingConfig
from bvjax.losses.teacher_forcing import ForcingConfig, TargetsConfig
from bvjax.losses.text_pretrain import TextLossConfig
from bvjax.nets.discriminator import DiscriminatorConfig
from bvjax.overrides import all_keys, from_dict, to_dict, unknown_key
from bvjax.train.config import OneModelConfig, check_range
from bvjax.train.lora import LoraConfig
from bvjax.train.optimizer import OptimizerConfig
from bvjax.train.vae_objective import VAELossConfig
from experiments.data_sets import DataConfig
from experiments.old_configs import up_to_date

if TYPE_CHECKING:
    import ml_collections


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipData:
    """The section `data` of the VAE: clips of storyworld."""

    source: str = "render"  # or "tfds"
    cache_dir: str = "data/storyworld"  # of "render"; "" renders in process
    data_dir: str = "data/tfds"  # of "tfds"
    split: str = "train"
    stories: int = 240  # 0 = fresh ones without end, rendered in process
    heldout_split: str = "heldout"
    heldout_stories: int = 32
    frames: int  # of a clip
    crop: int = 0  # pixels of a side; 0 = whole frames
    seed: int = 0

    def __post_init__(self):
        check_range(self, "data", names=("stories", "seed", "crop"))
        check_range(self, "data", least=1, names=("heldout_stories", "frames"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionData:
    """The section `data` of the text encoder: captions of whole stories."""

    tokenizer_dir: str = "data/text"
    tokenizer_stories: int = 1000  # that the tokenizer is learned from
    split: str = "train"
    heldout_split: str = "heldout"
    heldout_stories: int = 16

    def __post_init__(self):
        check_range(self, "data", least=1, names=("tokenizer_stories", "heldout_stories"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """The fields that every task has."""

    task: str
    model: ModelConfig
    train: OneModelConfig
    optimizer: OptimizerConfig
    weights_dtype: str = "float16"  # of what is exported


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEExperiment(Experiment):
    """Training of the VAE."""

    task: str = "vae"
    data: ClipData
    vae: VAELossConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextExperiment(Experiment):
    """Training of the text encoder."""

    task: str = "text"
    data: CaptionData
    text: TextLossConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTExperiment(Experiment):
    """Training of the DiT."""

    task: str = "dit"
    data: DataConfig
    forcing: TargetsConfig
    block: BlockForcingConfig
    history: HistoryConfig
    levels: LevelsConfig
    lora: LoraConfig = LoraConfig()  # of a rank above 0: a LoRA is trained, the DiT stays as it is

    @property
    def draw(self) -> ForcingConfig:
        """The whole training draw."""
        sections = dict(block=self.block, history=self.history, levels=self.levels)
        return ForcingConfig(**vars(self.forcing), **sections)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsistencyExperiment(DiTExperiment):
    """A few-step generator by consistency distillation; `model` is the student."""

    task: str = "consistency"
    consistency: ConsistencyConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OdeExperiment(DiTExperiment):
    """A few-step generator by ODE regression; `model` is the student."""

    task: str = "ode"
    ode: OdeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfForcingExperiment(DiTExperiment):
    """Training of a few-step DiT on its own rollouts; `optimizer` is the generator's."""

    task: str = "self_forcing"
    self_forcing: SelfForcingConfig
    adversarial: AdversarialConfig = AdversarialConfig()
    critic_levels: CriticLevelsConfig = CriticLevelsConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    critic_optimizer: OptimizerConfig
    # Weights folder or .safetensors of the real score of dmd, which stays as it is.
    teacher: str = ""


EXPERIMENTS: dict[str, type[Experiment]] = {
    "vae": VAEExperiment,
    "text": TextExperiment,
    "dit": DiTExperiment,
    "consistency": ConsistencyExperiment,
    "ode": OdeExperiment,
    "self_forcing": SelfForcingExperiment,
}


def check_words(words: list[str]) -> None:
    """Raises `UserError` for a word of the command that sets a key that no experiment has; names the nearest."""
    keys = {key for cls in EXPERIMENTS.values() for key in all_keys(cls)}
    sections = {key.rpartition(".")[0] for key in keys}
    for word in words:
        flag = word.partition("=")[0].lstrip("-")
        name = flag.removeprefix("config.")
        if word.startswith("-") and name != flag and name not in keys | sections:
            raise unknown_key(name, sorted(keys))


def as_config(experiment: Experiment) -> ml_collections.ConfigDict:
    """The experiment as the command line changes it: what `get_config` of a config file returns."""
    import ml_collections  # here, because training without a command line of it needs none

    # Built once more, so that a whole number where a number is wanted is one: the command line keeps types.
    typed = from_dict(type(experiment), to_dict(experiment))
    return ml_collections.ConfigDict(to_dict(typed, lists=False))


def experiment_of(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Experiment:
    """The experiment of a ConfigDict or of its content.

    Raises:
        UserError: it is none, lacks a section, has an unknown key (the nearest is named) or an illegal value.
    """
    if isinstance(getattr(config, "to_dict", None), Callable):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise UserError(
            f"the config is {type(config).__name__}; get_config must return a ConfigDict"
        )
    content = up_to_date(config)
    task = content.get("task")
    if task is None:
        raise UserError("the config has no task; experiments/configs has whole ones")
    if task not in EXPERIMENTS:
        raise UserError(f"there is no task {task!r}; the tasks are: {', '.join(EXPERIMENTS)}")
    for field in dataclasses.fields(EXPERIMENTS[task]):
        # Configs written before there was a LoRA have none.
        section = content.get(field.name, {} if field.name == "lora" else None)
        if field.name not in ("task", "weights_dtype", "teacher") and not isinstance(
            section, Mapping
        ):
            raise UserError(
                f"the config has no section {field.name}; experiments/configs has whole ones"
            )
    return from_dict(EXPERIMENTS[task], content)
