"""Names of machines, and what is said where they or their compilers are unknown."""

import importlib.util

import pytest

from bvjax.chips import CHIPS, chip_of, find_chip
from bvjax.errors import UserError
from bvjax.plan import topology


@pytest.mark.parametrize("name", ["v5p", "v9z:2x2", "h100:", "h100:8x8x8x8", "v5p:2,2", "h100:a"])
def test_a_name_of_no_known_form_is_refused_with_those_there_are(name):
    with pytest.raises(UserError, match="v5p:2x2x1.*h200:4x8"):
        topology.topology_devices(name)


@pytest.mark.parametrize("name", ["v5p:2x2x1", "h100:1x8"])
def test_without_the_compiler_it_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="make setup-aot"):
        topology.topology_devices(name)


def test_chips_by_name_and_as_jax_names_them():
    assert find_chip("V5P") is CHIPS["v5p"]
    assert chip_of("NVIDIA H200") is CHIPS["h200"] and chip_of("TPU v5 lite") is CHIPS["v5e"]
    assert chip_of("cpu") is None
    with pytest.raises(UserError, match="v6e, h100, h200"):
        find_chip("a100")


def test_every_chip_cites_its_source():
    assert all(chip.source.startswith("https://") for chip in CHIPS.values())
