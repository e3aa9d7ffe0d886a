"""Tests of several devices; `tests/test_devices.py` runs them with eight virtual ones."""

from __future__ import annotations

import jax
import pytest


def pytest_collection_modifyitems(items):
    if jax.device_count() < 8:
        for item in items:
            if "devices" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="run by tests/test_devices.py"))
