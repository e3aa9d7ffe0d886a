"""What the text encoder's task shows of itself, for any number of held-out stories."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from PIL import Image

from bvjax import presets
from bvjax.config import TextConfig
from bvjax.losses.text_pretrain import TextPretrainConfig
from bvjax.train.text_objective import PIXELS, TextObjective

CAPTIONS, LENGTH, LABELS = 3, 6, 4
TINY = TextConfig(
    vocab_size=40, dim=8, num_layers=1, num_heads=1, head_dim=8, ffn_dim=8, max_length=LENGTH
)


def held_out(stories: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (stories, CAPTIONS)
    names, toponyms = rng.integers(2, size=(2, *shape, 2)).astype(np.float32)
    return dict(
        ids=rng.integers(4, 40, size=(*shape, LENGTH)).astype(np.int32),
        mask=np.ones((*shape, LENGTH), bool),
        labels=np.concatenate([names, toponyms], axis=-1),
        name_labels=names,
        toponym_labels=toponyms,
    )


def test_a_picture_of_fewer_than_four_stories(tmp_path):
    task = TextObjective(
        model=dataclasses.replace(presets.MINI, text=TINY),
        objective=TextPretrainConfig(TINY, num_labels=LABELS, mask_id=3, first_piece=4),
        heldout=lambda index: held_out(stories=2),
        tokenizer=tmp_path / "tokenizer.model",
        vocabulary=tmp_path / "vocabulary.txt",
        weights_dtype="float32",
    )
    scalars = task.sample(task.init(jax.random.key(0)), tmp_path, 7)
    assert all(np.isfinite(value) for value in scalars.values())
    with Image.open(tmp_path / "0000007.png") as picture:
        assert picture.size == (CAPTIONS * PIXELS * 2, CAPTIONS * PIXELS)
