"""The stages of a model, each as a task, its data and its start: VAE, text encoder, DiT, few-step generator."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from bvjax.config import ChunkConfig, ModelConfig
from bvjax.distributed import exchange
from bvjax.errors import UserError
from bvjax.losses.consistency import ConsistencyDistillation
from bvjax.losses.extras import check_extras
from bvjax.losses.history import HistoryConfig
from bvjax.losses.ode_regression import OdeRegression
from bvjax.losses.self_forcing import SelfForcing
from bvjax.losses.teacher_forcing import TeacherForcing
from bvjax.losses.text_pretrain import TextPretrainConfig
from bvjax.memory.rules import check_generation
from bvjax.nets.dit import ZERO_START
from bvjax.sharding import Layout
from bvjax.tensor_files import TensorFile
from bvjax.tokenizer import Tokenizer
from bvjax.train.distillation import DistillationObjective, DistillationTask
from bvjax.train.dit_objective import DiTObjective
from bvjax.train.lora_task import LoraTask
from bvjax.train.mesh import check_fits, local_rows
from bvjax.train.one_model import Objective, OneModelTask, training_layout
from bvjax.train.self_forcing_task import SelfForcingTask
from bvjax.train.task import DataIterator, Params, Task
from bvjax.train.text_objective import TextObjective
from bvjax.train.vae_objective import VAEObjective
from bvjax.weights import load_config, load_tensors, load_weights
from data_pipelines.counter_source import IndexedBatches
from data_pipelines.row_batches import take_rows
from data_pipelines.storyworld.clips import Clips, FreshClips
from data_pipelines.storyworld.corpus import caption_corpus, train_tokenizer, write_vocabulary
from data_pipelines.storyworld.text_data import LABELS, TextBatches
from experiments.data_sets import TrainingData, open_data
from experiments.experiment import (
    ClipData,
    ConsistencyExperiment,
    DiTExperiment,
    Experiment,
    OdeExperiment,
    SelfForcingExperiment,
    TextExperiment,
    VAEExperiment,
)

# What makes the clips of a split, and what makes an endless iterator over rows of them in batches of a size.
ClipSource = tuple[Callable[..., Any], Callable[..., DataIterator]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """The inputs of a run of training: what is trained, on what, from where.

    `make_data` begins the endless batches.  `start_from` are parameters or what makes them; None: random ones.
    """

    task: Task
    make_data: Callable[[], DataIterator]
    start_from: Params | Callable[[], Params] | None


def make_stage(experiment: Experiment, init_from: Path | None = None) -> Stage:
    """The stage of the experiment's task.

    Args:
        experiment: the whole run.
        init_from: a weights folder, or the file of its part, to start from.
    """
    return STAGES[experiment.task](experiment, init_from)


def one_model(experiment: Experiment, objective: Objective, layout: Layout) -> OneModelTask:
    """The task of a stage that trains one network."""
    return OneModelTask(objective, experiment.optimizer, experiment.train, layout)


def initial_params(objective: Objective, source: Path | None) -> Params | None:
    """Parameters of the objective's part from a weights folder or one .safetensors file; None for None.

    Parts of the DiT that begin at zero (`dit.ZERO_START`) may be missing: the weights then go on as they were.
    """
    if source is None:
        return None
    path = source / f"{objective.part}.safetensors" if source.is_dir() else source
    like = jax.eval_shape(objective.init, jax.random.key(0))
    new: Params = {}
    if objective.part == "dit" and path.is_file():
        there = {name.split("/")[0] for name in TensorFile(path).infos}
        new = {name: like[name] for name in ZERO_START if name in like and name not in there}
    for name in new:
        logging.info("%s has no %s; it begins at zero", path, name)
    old = {name: part for name, part in like.items() if name not in new}
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), new)
    return load_tensors(path, old) | zeros


FRESH_STORIES = 2**20  # to measure latents on, where `data.stories` is 0


# ---- VAE ----------------------------------------------------------------------------------------
def vae_stage(experiment: VAEExperiment, init_from: Path | None) -> Stage:
    """Clips of storyworld, from the source that `data.source` names.

    Training of the decoder alone keeps the encoder of `init_from`, a weights folder.
    """
    layout = training_layout(experiment.train, VAEObjective.axes, "vae")
    model, data, config = experiment.model, experiment.data, experiment.vae
    check_clip_size(data, model)
    if data.source not in CLIPS:
        raise UserError(f"data.source is {data.source!r}; it can be {' or '.join(CLIPS)}")
    clips, iterate = CLIPS[data.source](data, model.chunk)
    heldout = clips(split=data.heldout_split, stories=data.heldout_stories)
    whole = clips(split=data.split, stories=data.stories or FRESH_STORIES)
    crops = clips(split=data.split, stories=data.stories, crop=data.crop)  # 0: fresh ones
    objective = VAEObjective(
        model=model,
        config=config,
        heldout=functools.partial(heldout.batch, size=config.heldout_clips),
        # Whole frames: the statistics are those of the latents that the DiT will see.  The indices are
        # beyond those of any run, so that they are not of the batches seen last.
        train=lambda i: whole.batch(2**40 + i, config.heldout_clips),
        weights_dtype=experiment.weights_dtype,
    )
    start = initial_params(objective, init_from)
    if start is None and config.start == "linear":
        start = objective.fitted_start
    if objective.frozen:
        if init_from is None or not init_from.is_dir():
            raise UserError(
                "vae.trains='decoder' needs `init_from`, a weights folder whose encoder it keeps"
            )
        objective = objective.with_latents_of(load_config(init_from).vae)
    task, size = one_model(experiment, objective, layout), experiment.train.global_batch_size
    return Stage(task, lambda: iterate(crops, size, local_rows(layout, size)), start)


def check_clip_size(data: ClipData, model: ModelConfig) -> None:
    """Raises `UserError` for clips that the VAE cannot encode."""
    time, space = model.vae.temporal_factor, model.vae.spatial_factor
    if (data.frames - 1) % time:
        raise UserError(f"data.frames is {data.frames}; it must be 1 + a multiple of {time}")
    sizes = {"chunk.height": model.chunk.height, "chunk.width": model.chunk.width}
    for name, size in {"data.crop": data.crop, **sizes}.items():
        if size % space:
            raise UserError(f"{name} is {size}; it must be a multiple of {space}")


def rendered_clips(data: ClipData, chunk: ChunkConfig) -> ClipSource:
    """Rendered in process, or read from the cache of rendered stories where it has them."""
    cache = Path(data.cache_dir) if data.cache_dir else None

    def iterate(clips: Clips, size: int, rows: Sequence[int] | None = None) -> DataIterator:
        if not data.stories:
            make_batch = functools.partial(FreshClips(clips).batch, size=size)
            return IndexedBatches(take_rows(make_batch, rows))
        logging.info("%d of %d stories are in the cache", clips.check_cache(), clips.stories)
        return IndexedBatches(take_rows(functools.partial(clips.batch, size=size), rows))

    return functools.partial(Clips, cache=cache, **_clip_size(data, chunk)), iterate


def tfds_clips(data: ClipData, chunk: ChunkConfig) -> ClipSource:
    """Read by Grain from what `python -m data_pipelines.storyworld.builder` wrote."""
    # Here, because rendering needs no tfds.
    from data_pipelines.storyworld.grain_clips import GrainClips

    clips = functools.partial(GrainClips, data.data_dir, **_clip_size(data, chunk))
    return clips, lambda clips, size, rows=None: clips.batches(size, rows)


def _clip_size(data: ClipData, chunk: ChunkConfig) -> dict[str, int]:
    size = dict(height=chunk.height, width=chunk.width, fps=chunk.fps)
    return size | dict(frames=data.frames, seed=data.seed)


CLIPS = {"render": rendered_clips, "tfds": tfds_clips}


# ---- text encoder -------------------------------------------------------------------------------
def text_stage(experiment: TextExperiment, init_from: Path | None) -> Stage:
    """Captions of whole stories; the tokenizer and the word list are made from them first."""
    layout = training_layout(experiment.train, TextObjective.axes, "text")
    model, data = experiment.model, experiment.data
    folder = Path(data.tokenizer_dir)
    tokenizer_file, vocabulary = folder / "tokenizer.model", folder / "vocabulary.txt"

    def make_tokenizer() -> None:
        if tokenizer_file.exists() and vocabulary.exists():
            return
        captions = caption_corpus(range(data.tokenizer_stories), data.split)
        folder.mkdir(parents=True, exist_ok=True)
        train_tokenizer(captions, tokenizer_file, model.text.vocab_size)
        write_vocabulary(captions, vocabulary)

    exchange.on_main(make_tokenizer)
    tokenizer = Tokenizer(tokenizer_file)
    losses = TextPretrainConfig(
        text=model.text,
        num_labels=len(LABELS),
        mask_id=tokenizer.mask_id,
        first_piece=tokenizer.mask_id + 1,
        **vars(experiment.text),
    )
    length = model.text.max_length
    objective = TextObjective(
        model=model,
        objective=losses,
        heldout=functools.partial(
            TextBatches(tokenizer, length, data.heldout_split).batch, size=data.heldout_stories
        ),
        tokenizer=tokenizer_file,
        vocabulary=vocabulary,
        weights_dtype=experiment.weights_dtype,
    )
    source = TextBatches(tokenizer, length, data.split)
    size = experiment.train.global_batch_size
    make_batch = functools.partial(source.batch, size=size)
    make_data = lambda: IndexedBatches(take_rows(make_batch, local_rows(layout, size)))
    start = initial_params(objective, init_from)
    return Stage(one_model(experiment, objective, layout), make_data, start)


# ---- DiT ----------------------------------------------------------------------------------------
def dit_stage(experiment: DiTExperiment, init_from: Path | None) -> Stage:
    """Examples encoded by the two stages before, of the data set that `data.name` names."""
    objective, examples = dit_objective(experiment)
    if experiment.lora.rank:
        return lora_stage(experiment, objective, examples, init_from)
    start = initial_params(objective, init_from)
    return Stage(one_model(experiment, objective, objective.layout), examples.make, start)


def lora_stage(
    experiment: DiTExperiment,
    objective: DiTObjective,
    examples: TrainingData,
    init_from: Path | None,
) -> Stage:
    """A LoRA of the DiT in `init_from`, which training leaves as it is."""
    task = LoraTask(
        objective, experiment.optimizer, experiment.train, objective.layout, lora=experiment.lora
    )
    if task.targets and init_from is not None:  # found before anything long
        return Stage(task, examples.make, functools.partial(initial_params, objective, init_from))

    def nothing() -> Params:
        raise UserError(
            f"a LoRA changes trained weights (lora.rank is {experiment.lora.rank}): give them with `init_from`, a "
            "weights folder"
        )

    return Stage(task, examples.make, nothing)


def distillation_stage(
    experiment: ConsistencyExperiment | OdeExperiment, init_from: Path | None
) -> Stage:
    """A student that starts as the model of `init_from`, which is its teacher; examples as of `dit_stage`."""
    student, draw = experiment.model, experiment.draw
    config, method = (
        (experiment.ode, OdeRegression)
        if isinstance(experiment, OdeExperiment)
        else (experiment.consistency, ConsistencyDistillation)
    )
    if init_from is None:
        raise UserError(
            f"task {experiment.task} starts from trained weights: give `init_from`, a weights folder of stage1"
        )
    method(TeacherForcing(student, draw, None), config)  # its checks, before anything is read
    base, examples = dit_objective(experiment)
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(base) if f.name != "stage"}
    objective = DistillationObjective(**fields, method=method(base.teacher, config))
    start = initial_params(objective, init_from)
    task = DistillationTask(objective, experiment.optimizer, experiment.train, base.layout)
    return Stage(task, examples.make, start)


def dit_objective(
    experiment: DiTExperiment, stage: str = "stage1", rollouts: bool = False
) -> tuple[DiTObjective, TrainingData]:
    """The DiT with the data that it trains on.

    Args:
        experiment: the whole run.
        stage: of what is exported.
        rollouts: whether the model rolls itself out as well.
    """
    data, untrained, forcing = experiment.data, experiment.model, experiment.draw
    check_retrieval(untrained.retrieval.kind, forcing.history, forcing.targets_per_chunk)
    check_extras(forcing, data.extras)
    if experiment.lora.rank and experiment.task != "dit":
        raise UserError(
            f"lora.rank is {experiment.lora.rank}; task {experiment.task} trains whole networks, and only task dit "
            "trains a LoRA"
        )
    layout = training_layout(experiment.train, DiTObjective.axes, "dit")
    check_fits(untrained, layout, rollouts)
    trained, params = load_weights(Path(data.weights), parts=("vae", "text"))
    # The VAE and text sections are as they were trained, latent statistics included.
    correlation = trained.vae.latent_correlation if untrained.dit.previous_latent else ()
    dit = dataclasses.replace(
        untrained.dit, latent_std=trained.vae.latent_scale, latent_correlation=correlation
    )
    model = dataclasses.replace(untrained, dit=dit, vae=trained.vae, text=trained.text)
    size = experiment.train.global_batch_size
    examples = open_data(data, model, size, local_rows(layout, size))
    objective = DiTObjective(
        model=model,
        forcing=forcing,
        null_text=examples.null_text,
        heldout=examples.heldout,
        vae_params=params["vae"],
        sample_stories=min(data.sample_stories, data.heldout_stories),
        sample_chunks=data.sample_chunks,
        weights_dtype=experiment.weights_dtype,
        layout=layout,
        stage=stage,
    )
    return objective, examples


def self_forcing_stage(experiment: SelfForcingExperiment, init_from: Path | None) -> Stage:
    """A few-step generator on its own rollouts, begun from the weights in `init_from`, and Block Forcing on examples."""
    if init_from is None:
        raise UserError(
            "Self Forcing trains a generator that can leap already: give the weights that it starts from with "
            "`init_from`"
        )
    matches = experiment.self_forcing.matches
    if matches and not experiment.teacher:
        raise UserError(
            f"self_forcing.objective {experiment.self_forcing.objective!r} needs a real score: give its weights, a "
            "folder or a file, in the key teacher"
        )
    objective, examples = dit_objective(experiment, "stage2", rollouts=True)
    judge = SelfForcing(
        model=objective.model,
        config=experiment.self_forcing,
        adversarial=experiment.adversarial,
        levels=experiment.critic_levels,
        critic=experiment.discriminator,
        null_text=objective.null_text,
        layout=objective.layout,
    )
    optimizers = experiment.optimizer, experiment.critic_optimizer
    task = SelfForcingTask(objective, judge, *optimizers, experiment.train, objective.layout)
    start = {"generator": initial_params(objective, init_from)}
    if matches:
        start["teacher"] = initial_params(objective, Path(experiment.teacher))
    return Stage(task, examples.make, start)


def check_retrieval(kind: str, history: HistoryConfig, targets_per_chunk: int) -> None:
    """Raises `UserError` for a rule that samples cannot be made with, and warns of one never trained with."""
    check_generation(kind)
    if targets_per_chunk and not history.never and not history.weights[kind]:
        logging.warning(
            "history.%s is 0, but it is the retrieval.kind of this model: training never shows what "
            "generation will retrieve",
            kind,
        )


STAGES: dict[str, Callable[[Any, Path | None], Stage]] = {
    "vae": vae_stage,
    "text": text_stage,
    "dit": dit_stage,
    "consistency": distillation_stage,
    "ode": distillation_stage,
    "self_forcing": self_forcing_stage,
}
