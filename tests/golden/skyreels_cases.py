"""What the parity tests of SkyReels-V2 compute, in numbers that both sides can draw without a file.

Parameters and inputs come from NumPy's generator; the golden files hold only what diffusers made of
them (`make_skyreels.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bvjax import weights
from bvjax.chunking import ChunkGrid
from bvjax.config import (
    ChunkConfig,
    DiTConfig,
    GuidanceConfig,
    MemoryConfig,
    ModelConfig,
    NoiseConfig,
    RetrievalConfig,
    RopeConfig,
    SamplerConfig,
    TextConfig,
    VAEConfig,
)
from bvjax.diffusion import solvers
from bvjax.diffusion.noise import anchor_noise, initial_noise
from bvjax.generate.conditions import Conditions
from bvjax.generate.rollout import stream
from bvjax.nets import block_causal
from bvjax.nets.dit import WanDiT
from bvjax.nets.text import UMT5Encoder

TEXT_DIM, TEXT_ROWS = 12, 7


# --- transformer ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DiTCase:
    """One forward pass; `size` is (latent frames, height, width) in latents."""

    name: str
    dit: DiTConfig
    size: tuple[int, int, int]
    fps: int
    timesteps: tuple[int, ...]  # one, or one per latent frame
    block: int = 1


def dit_config(heads: int, head_dim: int, layers: int, channels: int = 4) -> DiTConfig:
    dim = heads * head_dim
    return DiTConfig(
        dim=dim, num_heads=heads, num_layers=layers, ffn_dim=2 * dim + 8, freq_dim=32,
        in_channels=channels, out_channels=channels, fps_embedding=True,
    )  # fmt: skip


DIT_CASES = (
    DiTCase("scalar", dit_config(2, 12, 2), (3, 6, 10), 16, (873,)),
    DiTCase("per-frame", dit_config(3, 16, 2), (5, 6, 14), 24, (0, 20, 999, 512, 731)),
    DiTCase("causal", dit_config(2, 20, 3), (6, 10, 6), 24, (0, 0, 640, 640, 999, 999), block=2),
)


def random_case(seed: int) -> DiTCase:
    """Sizes, layers, labels and blocks drawn from `seed`; odd numbers of tokens are common."""
    rng = np.random.default_rng(seed)
    dit = dit_config(
        int(rng.integers(1, 5)),
        2 * int(rng.integers(3, 17)),
        int(rng.integers(1, 4)),
        int(rng.integers(2, 9)),
    )
    block, blocks = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    frames = block * blocks
    labels = rng.integers(0, 1000, frames if rng.random() < 0.7 else 1)
    return DiTCase(
        f"random {seed}",
        dit,
        (frames, 2 * int(rng.integers(1, 7)), 2 * int(rng.integers(1, 7))),
        int(rng.choice([16, 24])),
        tuple(int(t) for t in labels),
        block if len(labels) > 1 else 1,
    )


def draw_params(shapes, seed: int = 0):
    """Random parameters, also where initialisation has zeros or ones, of about unit gain."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        stacked = path[0].key == "blocks"
        shape = leaf.shape[1:] if stacked else leaf.shape
        fan_in = math.prod(shape[:-1]) if len(shape) > 1 else max(shape)
        centre = 1.0 if path[-1].key in ("scale", "gamma") else 0.0
        return np.float32(centre + rng.normal(size=leaf.shape) / math.sqrt(fan_in))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def dit_model(case: DiTCase) -> ModelConfig:
    return ModelConfig(name=case.name, dit=case.dit, text=TextConfig(dim=TEXT_DIM))


def dit_params(case: DiTCase):
    return draw_params(weights.shapes(dit_model(case), "dit"))


def dit_inputs(case: DiTCase) -> tuple[np.ndarray, np.ndarray]:
    """(latents [1, l, h, w, z], text [1, t, d])."""
    rng = np.random.default_rng(1)
    latents = rng.normal(size=(1, *case.size, case.dit.in_channels)).astype(np.float32)
    return latents, rng.normal(size=(1, TEXT_ROWS, TEXT_DIM)).astype(np.float32)


def positions(frames: int, height: int, width: int) -> np.ndarray:
    grid = np.meshgrid(*map(np.arange, (frames, height // 2, width // 2)), indexing="ij")
    return np.stack(grid, -1).reshape(1, 1, -1, 3)


def our_velocity(case: DiTCase) -> np.ndarray:
    """[1, l, h, w, z]."""
    latents, text = map(jnp.asarray, dit_inputs(case))
    sigma = jnp.asarray(case.timesteps, jnp.float32)[None, None] / 1000
    inputs = latents[:, None], sigma if sigma.shape[2] > 1 else sigma[..., 0], text[:, None]
    inputs, sources = (*inputs, jnp.asarray(positions(*case.size)), None), None
    if case.block > 1:
        inputs, sources = block_causal.split(case.block, *inputs)
    apply = jax.jit(functools.partial(WanDiT(case.dit, TEXT_DIM).apply, fps=case.fps))
    v, _ = apply({"params": dit_params(case)}, *inputs, self_context=sources)
    return np.asarray(v).reshape(latents.shape)


# --- timetable --------------------------------------------------------------------------

# steps, frames, ready, window, ar_step, block
TIMETABLES = (
    (4, 5, 0, 5, 0, 1),
    (4, 10, 5, 10, 0, 1),
    (4, 10, 5, 10, 2, 5),
    (3, 6, 0, 6, 1, 2),
    (5, 4, 1, 4, 7, 1),
    (6, 8, 0, 4, 3, 2),
    (6, 12, 2, 4, 5, 2),
    (30, 25, 0, 25, 5, 5),
    (30, 25, 5, 25, 5, 5),
    (30, 50, 5, 25, 6, 5),
)


def timetable_labels(steps: int) -> np.ndarray:
    """Whole labels, as the pipelines have them."""
    return solvers.timesteps(SamplerConfig(steps=steps, shift=8.0)).astype(np.int64)


# --- pipeline ---------------------------------------------------------------------------

SEED = 11
WINDOWS = 2
CAPTION_IDS = (5, 17, 33, 8, 61, 2, 44, 1)
NULL_IDS = (9, 1)
PIPELINE = ModelConfig(
    name="skyreels-parity",
    chunk=ChunkConfig(
        height=32,
        width=48,
        fps=24,
        frames=20,
        first="overlap",
        overlap_frames=17,
        history="latents",
    ),
    vae=VAEConfig(dim=8, num_res_blocks=1),
    text=TextConfig(
        vocab_size=64, dim=12, num_layers=2, num_heads=2, head_dim=6, ffn_dim=24, max_length=12
    ),
    dit=dit_config(2, 16, 2, channels=16),
    memory=MemoryConfig(slots=1, capacity=1, anchor=False),
    retrieval=RetrievalConfig(kind="none", num_recent=0, num_retrieved=0),
    rope=RopeConfig(mode="local"),
    noise=NoiseConfig(base="independent", shuffle=0),
    sampler=SamplerConfig(
        steps=4, shift=8.0, schedule="diffusers", corrector="skyreels", history_noise=20.0
    ),
    guidance=GuidanceConfig(scale=3.0),
)


def variant(name: str, **sections) -> ModelConfig:
    changed = {k: dataclasses.replace(getattr(PIPELINE, k), **v) for k, v in sections.items()}
    return dataclasses.replace(PIPELINE, name=name, **changed)


PIPELINE_CASES = {
    "noised history": PIPELINE,
    "clean history": variant("clean", sampler={"history_noise": 0.0}),
    "asynchronous": variant("async", sampler={"ar_step": 2, "causal_block": 5}),
}


@functools.cache
def pipeline_params() -> dict:
    """Of dit, vae and text."""
    return {
        part: draw_params(weights.shapes(PIPELINE, part), seed)
        for seed, part in enumerate(weights.PARTS)
    }


def padded(ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask [1, t]; id 0 is the padding."""
    row = np.zeros((1, PIPELINE.text.max_length), np.int32)
    row[0, : len(ids)] = ids
    return row, row > 0


def our_conditions() -> Conditions:
    """The caption for every window, as the pipeline has it."""
    encode = jax.jit(UMT5Encoder(PIPELINE.text).apply)
    params = {"params": pipeline_params()["text"]}
    text, null = (np.asarray(encode(params, *padded(ids))) for ids in (CAPTION_IDS, NULL_IDS))
    text = np.repeat(text, WINDOWS, axis=0)
    return Conditions(text=text, embedding=text.mean(1), null_text=null)


def our_windows(model: ModelConfig) -> list[np.ndarray]:
    """Latents of each window, [P + L, h, w, z], the way of `bvjax generate`."""
    params = jax.tree.map(jnp.asarray, pipeline_params())
    pieces = stream(
        params["dit"], model, our_conditions(), jax.random.key(SEED), vae_params=params["vae"]
    )
    return [np.asarray(piece.latents) for piece in pieces]


def whole(windows: list[np.ndarray], shared: int) -> np.ndarray:
    """The windows as one sequence, what they share once."""
    return np.concatenate([windows[0], *(w[shared:] for w in windows[1:])])


def window_noise(model: ModelConfig, number: int) -> np.ndarray:
    """What window `number` = 1, 2, ... begins as: [P + L, h, w, z]."""
    grid, key = ChunkGrid.of(model), jax.random.key(SEED)
    frame = (*grid.latent_size, model.dit.in_channels)
    head = anchor_noise(key, (grid.overlap_latents, *frame))
    tail = initial_noise(model.noise, key, number, (grid.latents_per_chunk, *frame))
    return np.concatenate([head[0], tail[0]])


def thinned(video: np.ndarray) -> np.ndarray:
    """Some frames and pixels of a video [f, h, w, 3], to keep in a file."""
    return np.asarray(video)[::3, 1::4, 2::4]
