"""Training the DiT by Block Forcing on encoded stories."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from bvjax.config import ModelConfig
from bvjax.distributed import exchange
from bvjax.generate.conditions import Conditions
from bvjax.generate.decoding import decode_piece
from bvjax.generate.pictures import decode_first, generate_pictures
from bvjax.generate.rollout import rollout
from bvjax.losses.clip import make_clip, make_pictures
from bvjax.losses.teacher_forcing import ForcingConfig, TeacherForcing
from bvjax.nets import dit
from bvjax.placement import mesh_error
from bvjax.random import AnyKey, ExampleKeys
from bvjax.sharding import AXES, ONE_DEVICE, Layout
from bvjax.train.mesh import place_whole
from bvjax.train.task import Params
from bvjax.weights import save_weights

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of noise, at which the held-out loss is told
SHEET = 48  # held-out pictures that a sample shows


@dataclasses.dataclass(frozen=True, eq=False)
class DiTObjective:
    """Batches are of whole encoded examples (`data_pipelines.encoded.example`), one row an example.

    `heldout` is such a batch of held-out stories; `sample` measures the loss on all of them and generates the first
    `sample_chunks` chunks of `sample_stories` of them, which `vae_params` decode.
    """

    model: ModelConfig
    forcing: ForcingConfig
    null_text: np.ndarray
    heldout: dict[str, np.ndarray]
    vae_params: Any
    sample_stories: int
    sample_chunks: int
    weights_dtype: str
    layout: Layout = ONE_DEVICE  # that of `train.mesh`
    part: str = "dit"
    axes: tuple[str, ...] = AXES
    frozen: tuple[str, ...] = ()
    stage: str = "stage1"  # of what is exported, see `bvjax.stages`

    @property
    def teacher(self) -> TeacherForcing:
        return TeacherForcing(self.model, self.forcing, self.null_text, self.layout)

    def init(self, key: jax.Array) -> Params:
        return dit.init_params(self.model.dit, self.model.text.dim, key)

    def loss(
        self, params: Params, batch: dict[str, Array], key: AnyKey
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        clip = make_clip(batch, self.teacher.grid) if "latents" in batch else None
        return self.teacher.loss(params, clip, key, make_pictures(batch))

    def sample(self, params: Params, folder: Path, step: int) -> dict[str, float]:
        """Strips, see `draw`.

        Returns:
            The loss and its parts on the held-out stories, with the same noise at every step, and the loss by level.
        """
        self.draw(params, folder, step)
        return self.heldout_loss(params) | self.heldout_by_level(params)

    def draw(self, params: Params, folder: Path, step: int) -> None:
        """Writes a sheet of held-out pictures and a strip per held-out story: truth (through the VAE) over generated.

        Where the layout does not fit generation, it is made on one device, with several processes on process 0's.
        """
        layout = self.layout
        fits = layout.mesh is None or mesh_error(self.model, dict(layout.mesh.shape)) is None
        if "latents" in self.heldout:
            if fits:
                self._draw_strips(params, layout, folder, step)
            elif jax.process_count() > 1:
                local = exchange.local_copy(params)
                exchange.on_main(lambda: self._draw_strips(local, ONE_DEVICE, folder, step))
            else:
                local = jax.device_put(params, ONE_DEVICE.sharding())
                self._draw_strips(local, ONE_DEVICE, folder, step)
        if "pictures" in self.heldout:
            local = exchange.local_copy(params) if jax.process_count() > 1 else params

            def draw_sheet() -> None:
                folder.mkdir(parents=True, exist_ok=True)
                self._sheet(local).save(folder / f"{step:07d}_pictures.png")

            exchange.on_main(draw_sheet)

    def _draw_strips(self, params: Params, layout: Layout, folder: Path, step: int) -> None:
        """Generates on `layout`, in every process that has a part of it; process 0 writes the picture."""
        rows = []
        for i in range(self.sample_stories):
            truth = self.heldout["latents"][
                i, : 1 + self.sample_chunks * self.teacher.grid.latents_per_chunk
            ]
            conditions = Conditions(
                text=self.heldout["text"][i, : self.sample_chunks],
                embedding=self.heldout["embedding"][i, : self.sample_chunks],
                null_text=self.null_text[None],
            )
            generated = rollout(params, self.model, conditions, jax.random.key(i), layout=layout)
            latents = np.concatenate([generated.anchor, np.concatenate(generated.latents)])
            rows += [self._strip(truth), self._strip(latents)]
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate(rows)).save(folder / f"{step:07d}.png")

    def heldout_loss(self, params: Params) -> dict[str, float]:
        """Means over the held-out stories; far above those of training, there are too few stories."""
        return self.heldout_means(functools.partial(self._loss, params))

    def heldout_by_level(self, params: Params) -> dict[str, float]:
        """The loss of flow matching on the held-out stories at each of `LEVELS`: `heldout_at_0.5` and others.

        Stories are sharded over the axis `data` of the mesh. Each has a key of its own number, so that what is drawn is
        the same at every step and on any mesh.
        """
        if "latents" not in self.heldout or not self.forcing.targets_per_chunk:
            return {}
        count, at_once = len(self.heldout["latents"]), self.layout.size("data")
        losses = []
        for first in range(0, count, at_once):
            numbers = np.minimum(np.arange(first, first + at_once), count - 1)
            stories = {name: array[numbers] for name, array in self.heldout.items()}
            placed = place_whole(self.layout, stories | {"number": numbers.astype(np.int32)})
            losses.append(np.asarray(self._by_level(params, placed)))
        means = np.concatenate(losses)[:count].mean(axis=0)
        return {f"heldout_at_{level:g}": float(x) for level, x in zip(LEVELS, means, strict=True)}

    @functools.cached_property
    def _by_level(self):
        def by_level(params, stories):
            key = ExampleKeys(jax.random.key(0), stories["number"])
            clip = make_clip(stories, self.teacher.grid)
            return self.teacher.loss_at(params, clip, key, LEVELS)

        return jax.jit(by_level, out_shardings=self.layout.sharding())

    def heldout_means(
        self, loss_fn: Callable[[dict[str, np.ndarray], jax.Array], tuple[Array, dict[str, Array]]]
    ) -> dict[str, float]:
        """Means over the held-out stories of a loss of (story, key), with the same keys at every call."""
        parts = []
        for i in range(len(next(iter(self.heldout.values())))):
            story = {name: array[i : i + 1] for name, array in self.heldout.items()}
            loss, metrics = loss_fn(story, jax.random.key(i))
            parts.append({"loss": loss, **metrics})
        return {f"heldout_{name}": float(np.mean([p[name] for p in parts])) for name in parts[0]}

    def _sheet(self, params: Params) -> Image.Image:
        """The first held-out pictures of each example, over what the model makes of their captions."""
        latents, text = self.heldout["pictures"], self.heldout["picture_text"]
        shown = slice(0, max(1, SHEET // len(latents)))
        truth, captions = latents[:, shown], text[:, shown]
        made = generate_pictures(
            params,
            self.model,
            captions.reshape(-1, *text.shape[2:]),
            self.null_text,
            jax.random.key(0),
        )
        truth, made = (
            decode_first(self.vae_params, self.model, one)
            for one in (truth.reshape(made.shape), made)
        )
        columns = min(16, len(made))
        lines = [
            np.concatenate(list(frames[start : start + columns]), axis=1)
            for start in range(0, len(made) - columns + 1, columns)
            for frames in (truth, made)
        ]
        return Image.fromarray(np.concatenate(lines))

    @functools.cached_property
    def _loss(self):
        return jax.jit(self.loss)

    def _strip(self, latents: np.ndarray) -> np.ndarray:
        """Two frames a chunk, side by side."""
        _, frames = decode_piece(self.vae_params, self.model, None, latents)
        every = self.model.chunk.frames // 2
        return np.concatenate(list(frames[every // 2 :: every]), axis=1)

    def export(self, params: Params, folder: Path, meta: dict[str, Any]) -> None:
        """Writes the DiT; how the layers multiplied in training is not part of what it is."""
        model = dataclasses.replace(
            self.model, dit=dataclasses.replace(self.model.dit, matmul_precision="float32")
        )
        meta = {"stage": self.stage, **meta}
        if model.sampler.kind == "few_step":
            meta["sampler"] = model.sampler.kind
        save_weights(folder, model, {"dit": params}, meta=meta, dtype=self.weights_dtype)
