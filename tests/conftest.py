"""A tiny model that the tests share: random in all its parts, so that every path shows."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
import os
import pathlib
import tempfile
import types

# Compiled programs are shared by workers, by the processes that tests start, and by the next run.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"bvjax-tests-{os.getuid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Tests compile far more than they compute: with LLVM's optimisation off they take two thirds.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
os.environ["BVJAX_TEXT_CACHE"] = "off"  # tests of the cache choose a folder of their own

import jaxtyping  # noqa: E402

TYPED = ["bvjax.diffusion", "bvjax.losses", "bvjax.memory", "bvjax.nets", "kernels_pallas"]
# Before anything of these packages is imported: every call then checks the shapes it was promised.
# Not beside PyTorch: the tests of parity hand NumPy's arrays to everything.
if importlib.util.find_spec("torch") is None:
    jaxtyping.install_import_hook(TYPED, "shape_checks.functions")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import sentencepiece  # noqa: E402

from bvjax import weights  # noqa: E402
from bvjax.config import (  # noqa: E402
    BuildConfig,
    ChunkConfig,
    DiTConfig,
    GuidanceConfig,
    MemoryConfig,
    ModelConfig,
    RetrievalConfig,
    RopeConfig,
    SamplerConfig,
    TextConfig,
    VAEConfig,
)
from bvjax.tokenizer import words  # noqa: E402

CAPTIONS = (
    "A red fox named Pip with a scarf sits at Willow Hollow.",
    "Pip waves and then walks off to the left.",
    "Willow Hollow lies empty in the morning light.",
    "A blue owl called Ada hops in from the right.",
    "From the left, Pip comes back to Willow Hollow.",
)
TINY = ModelConfig(
    name="tiny",
    chunk=ChunkConfig(height=32, width=32, fps=8, frames=8),
    vae=VAEConfig(dim=8, num_res_blocks=1, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16),
    text=TextConfig(
        vocab_size=96, dim=16, num_layers=1, num_heads=2, head_dim=8, ffn_dim=32, max_length=64
    ),
    dit=DiTConfig(dim=32, num_heads=2, num_layers=2, ffn_dim=64, freq_dim=16, similarity_keys=True),
    memory=MemoryConfig(slots=6, capacity=6, tau=0.8),
    build=BuildConfig(n_recent=2, n_random=2),
    retrieval=RetrievalConfig(num_recent=2, num_retrieved=1),
    rope=RopeConfig(mode="window"),
    sampler=SamplerConfig(steps=4, shift=3.0),
    guidance=GuidanceConfig(scale=2.0),
)


def tiny_model(**sections) -> ModelConfig:
    """The tiny configuration with fields changed: `tiny_model(chunk={"first": "joined"})`."""
    changed = {k: dataclasses.replace(getattr(TINY, k), **v) for k, v in sections.items()}
    return dataclasses.replace(TINY, **changed)


# Two more layouts, shared so that they compile once; no guidance, to compile faster.
JOINED = tiny_model(
    chunk={"first": "joined"},
    memory={"capacity": 8},
    guidance={"scale": 1.0},
    sampler={"kind": "euler"},
)
OVERLAP = tiny_model(chunk={"first": "overlap"}, guidance={"scale": 1.0}, sampler={"kind": "euler"})


def tiny_params(seed: int = 0) -> dict:
    """Random parameters of all three parts, also of what initialisation leaves at zero or one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        fan_in = math.prod(leaf.shape[:-1]) if leaf.ndim > 1 else leaf.size
        centre = 1.0 if path[-1].key in ("scale", "gamma") else 0.0
        values = centre + rng.normal(size=leaf.shape) / math.sqrt(fan_in)
        return jnp.asarray(values, jnp.float32)

    return {
        part: jax.tree_util.tree_map_with_path(draw, weights.shapes(TINY, part))
        for part in weights.PARTS
    }


def make_tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """A SentencePiece model trained on `CAPTIONS`."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(CAPTIONS))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=96,
        model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
        minloglevel=2, num_threads=1,
    )  # fmt: skip
    return folder / "tokenizer.model"


@pytest.fixture
def unchecked_types():
    """For wrong shapes that the product itself refuses: without the tests' own check of types."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _logs_reach_pytest():
    """The command line, run by a test in the same process, keeps absl's records to itself."""
    logging.getLogger("absl").propagate = True


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> types.SimpleNamespace:
    """Models, `.params`, `.weights` (a folder as the command line wants it), `.captions`."""
    folder = tmp_path_factory.mktemp("weights")
    params = tiny_params()
    tokenizer = make_tokenizer(folder)
    weights.save_weights(folder, TINY, params, tokenizer=tokenizer)
    (folder / "vocabulary.txt").write_text("\n".join(sorted(words(CAPTIONS))) + "\n")
    return types.SimpleNamespace(
        model=TINY,
        joined=JOINED,
        overlap=OVERLAP,
        variant=tiny_model,
        params=params,
        weights=folder,
        captions=CAPTIONS,
    )
