"""Captions of training examples have the embeddings that generation gives them."""

import dataclasses

import numpy as np

from bvjax.generate.conditions import encode_captions
from data_pipelines.encoded.encoders import load_encoders

CAPTIONS = ("A red fox walks through the snow.", "It stops.")


def test_embeddings_are_pooled_as_in_generation():
    encoders = load_encoders("bvjax/assets/mini")
    text = dataclasses.replace(encoders.model.text, pool="last")
    last = dataclasses.replace(encoders, model=dataclasses.replace(encoders.model, text=text))
    states, embedding = last.text(CAPTIONS)
    load = lambda: encoders.params["text"]
    conditions = encode_captions(load, text, encoders.tokenizer, CAPTIONS)
    np.testing.assert_allclose(conditions.embedding, embedding, atol=1e-5)
    for row, vector in zip(states, embedding, strict=True):
        tokens = np.flatnonzero(np.any(row != 0, axis=-1))
        np.testing.assert_array_equal(vector, row[tokens[-1]])
