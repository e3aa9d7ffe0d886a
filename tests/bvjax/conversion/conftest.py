"""The tiny model in every foreign format."""

from __future__ import annotations

import pytest

from bvjax.conversion.converter import convert

FILES = {
    "wan": "diffusion_pytorch_model.safetensors",
    "skyreels": "model.safetensors",
    "diffusers": "transformer/diffusion_pytorch_model.safetensors",
}


@pytest.fixture(scope="session")
def exported(tiny, tmp_path_factory):
    """{target: folder}."""
    folder = tmp_path_factory.mktemp("exported")
    for target in FILES:
        convert(tiny.weights, folder / target, target)
    return {target: folder / target for target in FILES}
