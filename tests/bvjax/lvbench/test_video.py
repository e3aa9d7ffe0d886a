"""Ground truth beside a video: whatever the file holds, it is read or refused in one sentence."""

import io

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bvjax.errors import UserError
from bvjax.lvbench.video import load_truth, probe
from tests.bvjax.lvbench.clips import write_clip


def archive(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


BOXES, BACKGROUND = np.ones((5, 4), np.float32), np.full((5, 16, 3), 255, np.uint8)
WHOLE = archive(boxes=BOXES, background=BACKGROUND)
OTHERS = [
    archive(boxes=np.full((5, 4), "x")),
    archive(boxes=np.zeros((5, 4), object)),
    archive(background=BACKGROUND.astype(float)),
    archive(boxes=BOXES[1:]),
    b"",
]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_truth_is_read_or_refused(tmp_path, data):
    clip = tmp_path / "a.mkv"
    if not clip.exists():
        write_clip(clip, [9] * 5)
    content = bytearray(data.draw(st.sampled_from([WHOLE, WHOLE, *OTHERS])))
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(content)))
        new = data.draw(st.binary(max_size=4))
        content[start : start + len(new)] = new
    del content[data.draw(st.just(len(content)) | st.integers(0, len(content))) :]
    (tmp_path / "a.truth.npz").write_bytes(content)
    video = probe(clip, clip)
    try:
        result = load_truth(video)
        assert result.keys() <= {"boxes", "background"}
        if "boxes" in result:
            assert result["boxes"].shape == (5, 4) and result["boxes"].dtype.kind in "fiu"
        if "background" in result:
            assert result["background"].shape == (5, 16, 24) and result["background"].dtype == bool
    except UserError as error:
        assert "a.truth.npz" in str(error) and "\n" not in str(error)
