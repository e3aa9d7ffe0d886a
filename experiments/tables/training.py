"""Fine-tunes of rows: from shared weights, equal updates within a table, each in a folder named by what makes it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bvjax import policies
from bvjax.config import GuidanceConfig, ModelConfig, NoiseConfig, SamplerConfig
from bvjax.errors import UserError, WorkError
from bvjax.files import read_json_object, sha256_of, write_json
from bvjax.nets.discriminator import default_taps
from bvjax.overrides import to_dict
from bvjax.weights import load_config, load_tensors, shapes
from data_pipelines.storyworld.story_folder import encode
from experiments import wiring
from experiments.configs import mini_consistency, mini_dit, mini_self_forcing
from experiments.data_sets import DataConfig
from experiments.experiment import DiTExperiment, Experiment, experiment_of
from experiments.tables.rows import Leg
from experiments.tables.settings import Amounts, Arm, key_of

FINISHED = "finished.json"
LR = 5e-4  # of Block Forcing: a quarter of what trains from the start
FRAMES = 24  # latents of a minute that are denoised alone; of a clip its share
BASES = {
    "dit": mini_dit.experiment,
    "consistency": mini_consistency.experiment,
    "self_forcing": mini_self_forcing.experiment,
}


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A leg with its place: the run that it is, what it begins with, and whether it is over."""

    experiment: Experiment
    start: Path  # a .safetensors file, which need not be there yet
    folder: Path

    @property
    def weights(self) -> Path:
        return self.folder / "weights" / "dit.safetensors"

    @property
    def finished(self) -> bool:
        return (self.folder / FINISHED).is_file()

    @property
    def updates(self) -> int:
        return self.experiment.train.steps


@dataclasses.dataclass(frozen=True)
class FineTunes:
    """The fine-tunes of a folder of results.

    weights: the folder that all begin with. few_step: a DiT that stands for the leg of consistency distillation.
    """

    weights: Path
    out: Path
    amounts: Amounts
    few_step: Path | None = None

    @functools.cached_property
    def sha256(self) -> Callable[[Path], str]:
        """The hash of a file of weights, which nothing writes again once it is there: each is read once."""
        return functools.cache(sha256_of)

    def stretches(self, arm: Arm, seed: int) -> list[Stretch]:
        """The legs of an arm, in order; [] of one that is as it is."""
        start = self.weights / "dit.safetensors"
        key, found = self.sha256(start), []
        for leg in arm.row.plan if arm.tuned else ():
            if leg.task == "consistency" and self.few_step is not None:
                start = self.few_step
                key = self.sha256(start)
                continue
            # The start that rows share is one, whatever the seed of what follows.
            own_seed = 0 if leg.task == "consistency" else seed
            experiment = self.experiment(leg, arm.model, own_seed)
            content = to_dict(experiment)
            for name in ("weights", "latents"):
                del content["data"][name]
            key = key_of(key, content)
            found.append(Stretch(experiment, start, self.out / "training" / key))
            start = found[-1].weights
        return found

    def dit_of(self, arm: Arm, seed: int) -> Path:
        """The DiT of an arm, which is there once its fine-tune is finished."""
        legs = self.stretches(arm, seed)
        if legs:
            return legs[-1].weights
        consistency = arm.tuned and any(leg.task == "consistency" for leg in arm.row.plan)
        return self.few_step if consistency and self.few_step else self.weights / "dit.safetensors"

    def params_of(self, arm: Arm, seed: int) -> Any:
        """The parameters of an arm's DiT; raises `UserError` when they do not fit the model."""
        return load_tensors(self.dit_of(arm, seed), shapes(arm.model, "dit"))

    def experiment(self, leg: Leg, model: ModelConfig, seed: int) -> Experiment:
        """The run of a leg; raises `UserError` for changes that are no keys of it."""
        base: DiTExperiment = BASES[leg.task]()
        updates = max(1, round(leg.share * self.amounts.updates))
        clips = leg.data == "clips"
        batch = self.amounts.chunks // self.amounts.clip_chunks if clips else 1
        model = policies.without(model)
        if leg.task == "dit":
            # It generates nothing: rows that differ in generation alone share their fine-tune.
            model = dataclasses.replace(
                model, noise=NoiseConfig(), sampler=SamplerConfig(), guidance=GuidanceConfig()
            )
        dit = dataclasses.replace(model.dit, remat=base.model.dit.remat)
        experiment = dataclasses.replace(
            base,
            model=dataclasses.replace(model, dit=dit),
            train=dataclasses.replace(
                base.train,
                steps=updates,
                seed=seed,
                global_batch_size=batch,
                device_batch_size=1,
                ema_decay=0.98,
                log_every=max(1, updates // 10),
                sample_every=0,
                checkpoint_every=max(1, updates // 6),
            ),
            optimizer=dataclasses.replace(
                base.optimizer,
                lr=LR if leg.task == "dit" else base.optimizer.lr,
                warmup_steps=min(base.optimizer.warmup_steps, updates // 10),
            ),
            data=DataConfig(
                weights=str(self.weights),
                latents=str(self.data(leg.data)),
                extras=base.data.extras,
                heldout_stories=1,
                sample_stories=1,
                seed=seed,
            ),
            forcing=dataclasses.replace(base.forcing, frames=FRAMES // batch // 4 * 4),
            weights_dtype="float32",
        )
        if leg.task == "self_forcing":
            critic = experiment.discriminator
            layers = min(critic.layers, dit.num_layers)  # the critic begins as the generator
            taps = critic.taps if layers == critic.layers else default_taps(layers)
            experiment = dataclasses.replace(
                experiment,
                discriminator=dataclasses.replace(critic, layers=layers, taps=taps),
                self_forcing=dataclasses.replace(
                    experiment.self_forcing,
                    window=self.amounts.chunks,
                    warmup_updates=min(experiment.self_forcing.warmup_updates, updates // 4),
                    ema_start=min(experiment.self_forcing.ema_start, updates // 2),
                ),
                teacher="",
            )
        content = to_dict(experiment)
        for key, value in leg.changes.items():
            section, _, name = key.partition(".")
            content[section][name] = value
        return experiment_of(content)

    def data(self, kind: str) -> Path:
        """The folder of encoded stories."""
        chunks = self.amounts.clip_chunks if kind == "clips" else self.amounts.chunks
        return self.out / "data" / f"chunks-{chunks}"

    def train(self, stretch: Stretch) -> None:
        """Goes on with a leg to its end; raises `WorkError` where it was stopped."""
        if stretch.finished:
            return
        self._encode(stretch)
        # Restarts add up; what a killed process had counted is lost.
        clock = stretch.folder / "seconds.json"
        before = read_json_object(clock)["seconds"] if clock.is_file() else 0.0
        began = time.perf_counter()
        try:
            stopped_by = wiring.train(stretch.experiment, stretch.folder, str(stretch.start))
        except FloatingPointError as error:
            raise WorkError(f"the fine-tune in {stretch.folder} stopped: {error}") from None
        seconds = before + time.perf_counter() - began
        if stopped_by is not None:
            write_json(clock, {"seconds": seconds})
            raise WorkError("a fine-tune was stopped; the same command again goes on")
        write_json(
            stretch.folder / FINISHED,
            {"task": stretch.experiment.task, "updates": stretch.updates, "seconds": seconds},
        )

    def _encode(self, stretch: Stretch) -> None:
        root = Path(stretch.experiment.data.latents)
        chunks = int(root.name.rpartition("-")[2])
        examples = self.amounts.train_stories * (self.amounts.chunks // chunks)
        encode(self.weights, root, range(examples), "train", chunks)
        encode(self.weights, root, range(1), "heldout", chunks)


def check_start(few_step: Path | None, weights: Path) -> None:
    """Raises `UserError` for few-step weights that are not a file of the model's DiT."""
    if few_step is None:
        return
    if not few_step.is_file():
        raise UserError(f"there is no file of few-step weights {few_step}")
    load_tensors(few_step, shapes(load_config(weights), "dit"))
