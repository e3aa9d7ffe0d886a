"""The table of metric networks names what is there; nothing is compiled or timed here."""

import importlib
import inspect

import numpy as np
import pytest

from experiments.benchmarks.metric_networks import NETWORKS, sample


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table(name):
    network = NETWORKS[name]
    module = importlib.import_module(f"bvjax.lvbench.nets.{network.module}")
    assert module.shapes(*network.sizes) and callable(module.prepare)
    taken = list(inspect.signature(getattr(module, network.forward)).parameters.values())
    needed = sum(p.default is p.empty for p in taken)
    assert needed == 1 + network.pictures  # parameters, then pictures
    pictures = network.inputs(1)
    assert [x.shape for x in pictures] == [(1, *network.picture, 3)] * network.pictures
    assert network.low <= pictures[0].min() < pictures[0].max() <= network.high


def test_a_sample_is_spread_over_the_result():
    assert sample(np.arange(10.0).reshape(2, 5), 4) == [0, 2, 4, 6, 8]
    assert sample(np.arange(3.0)) == [0, 1, 2]
