"""Excerpts that end at a cut: which chunks, which shot each is of, and what training needs of them."""

from __future__ import annotations

import numpy as np
import pytest

from bvjax.presets import get_preset
from data_pipelines.encoded.encoders import load_encoders
from data_pipelines.encoded.example import ExampleSpec
from data_pipelines.storyworld.cut_clips import cut_excerpt, encode_cut, shots
from data_pipelines.storyworld.cuts import cuts_of
from experiments.configs import mini_cuts
from experiments.experiment import as_config, experiment_of


def test_shots_of_an_excerpt():
    # chunks 2 and 5 are of one shot, 7 and 8 of the next, 9 begins a third
    assert shots((2, 5, 7, 8, 9), (6, 9)).tolist() == [1, 1, 3, 3, 5]
    assert shots((1, 2, 3), ()).tolist() == [1, 1, 1]


def test_the_target_begins_a_shot_where_one_does():
    model, at_cuts = get_preset("mini"), 0
    for index in range(12):
        part, _ = cut_excerpt(model, "train", index)
        cuts = [number for number in cuts_of(part.story) if number > 4]
        assert len(part.chunks) == 5 and (part.chunks[-1] in cuts or not cuts)
        at_cuts += part.chunks[-1] in cuts
    assert at_cuts > 6


def test_the_config():
    experiment = mini_cuts.experiment()
    assert experiment_of(as_config(experiment)) == experiment
    assert "shot" in experiment.data.extras and experiment.data.name == "cuts"


@pytest.mark.slow
def test_an_encoded_example():
    encoders = load_encoders("bvjax/assets/mini")
    index = next(i for i in range(9) if cuts_of(cut_excerpt(encoders.model, "train", i)[0].story))
    example = encode_cut(encoders, "train", index)
    spec = ExampleSpec.of(encoders.model, 5, ("relevance", "joined", "shot"))
    for name, shape in spec.shapes().items():
        if name != "text":
            assert np.asarray(example[name]).shape == shape, name
    assert example["shot"][-1] == 5 and example["joined"][-1] == 1
