"""The reference can be built without a warning, and has what `import bvjax` offers."""

from __future__ import annotations

import pytest

from experiments import reference


def test_a_package_is_shown_with_all_its_modules(tmp_path):
    assert reference.build(tmp_path, ("kernels_pallas",)) > 5
    page = (tmp_path / "kernels_pallas" / "attention.html").read_text(encoding="utf-8")
    assert "softmax(scale q k^T) v" in page


@pytest.mark.slow
def test_everything_is_shown(tmp_path):
    assert reference.build(tmp_path) > 150
    face = (tmp_path / "bvjax.html").read_text(encoding="utf-8")
    for name in ("load", "Pipeline", "Video", "evaluate"):
        assert f'id="{name}' in face, name
    assert not (tmp_path / "bvjax" / "conversion" / "torch_classes.html").exists()
