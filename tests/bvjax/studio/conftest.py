"""A studio over the tiny model, without and with its worker."""

import pytest
from starlette.testclient import TestClient

from bvjax.loading.bundle import load_bundle
from bvjax.runs.pipeline import Pipeline
from bvjax.studio.server import make_app
from bvjax.studio.studio import Studio

CAPTIONS = ["A red fox named Pip sits at Willow Hollow.", "Pip waves and then walks off."]


@pytest.fixture(scope="session")
def pipeline(tiny):
    bundle = load_bundle(tiny.weights)
    return Pipeline(bundle, bundle.model)


@pytest.fixture
def studio(pipeline, tmp_path):
    return Studio(pipeline, tmp_path)


@pytest.fixture
def client(studio):
    """A browser on the same machine; the worker runs."""
    with TestClient(make_app(studio), base_url="http://localhost:8642") as client:
        yield client
