"""The flow that metrics share, and the camera that is fitted to it."""

import sys
import types

import cv2
import numpy as np
import pytest

from bvjax.errors import UserError
from bvjax.lvbench.paper import camera
from bvjax.lvbench.paper.flow import flow_method
from tests.bvjax.lvbench.paper import scenes


def shifted(height, width, step, smooth=2.0, contrast=50):
    """Two frames of a texture that moves by `step` (right, down), the left third flat."""
    wide = scenes.texture(3, height + 40, width + 40, smooth)
    x, y = np.meshgrid(np.arange(width) + 20.0, np.arange(height) + 20.0)
    output = []
    for k in (0, 1):
        moved = cv2.remap(wide, np.float32(x - k * step[0]), np.float32(y - k * step[1]), 2)
        output.append(np.clip(127 + contrast * moved, 0, 255))
        output[-1][:, : width // 3] = 127
    return np.repeat(np.stack(output)[..., None], 3, -1).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "step"), [((480, 854), (3.0, -5.0)), ((60, 90), (0.7, 1.1)), ((480, 854), (0.5, 0.0))]
)
def test_dis_knows_a_shift_in_pixels_of_the_video(size, step):
    (block,) = scenes.blocks_of(shifted(*size, step))
    flow = flow_method(scenes.context())(block)
    assert flow.first == 1 and flow.field.shape[1] == min(240, size[0])
    inner = np.s_[0, 10:-10, flow.field.shape[2] // 2 : -10]
    assert np.abs(flow.field[inner] - step).mean() < 0.08
    assert flow.textured[inner].mean() > 0.98
    assert not flow.textured[0, :, : flow.field.shape[2] // 3 - 10].any()


def test_noise_on_a_flat_wall_is_no_motion():
    rng = np.random.default_rng(0)
    frames = np.clip(shifted(480, 300, (0, 0)) + rng.normal(0, 2, (2, 480, 300, 3)), 0, 255)
    (block,) = scenes.blocks_of(frames.astype(np.uint8))
    flow = flow_method(scenes.context())(block)
    still = np.linalg.norm(flow.field, axis=-1) <= 1
    assert still[flow.textured].mean() > 0.95 > 0.8 > still.mean()  # without leaving it out: noise


@pytest.mark.parametrize("size", [(5, 7), (12, 3)])
def test_tiny_frames_have_a_flow_too(size):
    (block,) = scenes.blocks_of(np.zeros((2, *size, 3), np.uint8))
    assert flow_method(scenes.context())(block).field.shape == (1, *size, 2)


def test_lucas_kanade_agrees():
    (block,) = scenes.blocks_of(shifted(40, 56, (1.0, -0.5)))
    flow = flow_method(scenes.context(flow="lk", batch=1))(block)
    assert np.abs(flow.field[0, 6:-6, 30:-6] - (1.0, -0.5)).mean() < 0.1


def test_raft_gets_colour_of_whole_multiples_of_8(monkeypatch):
    seen = []

    def flow(params, first, second):
        seen.append((first.shape, params["gain"]))
        return (second - first)[..., :2]

    stub = types.SimpleNamespace(flow=flow, prepare=lambda tensors: {"gain": tensors["w"]})
    monkeypatch.setitem(sys.modules, "bvjax.lvbench.nets.raft", stub)
    monkeypatch.setattr("bvjax.lvbench.nets.raft", stub, raising=False)
    given = scenes.context(flow="raft", batch=3)
    given = type(given)(given.options, given.layout, lambda name: {"w": np.float32(len(name))})
    frames = np.zeros((6, 480, 500, 3), np.uint8)
    frames[1:, ..., 1] = 3
    frames[4:, ..., 0] = 5
    (block,) = scenes.blocks_of(frames)
    output = flow_method(given)(block)
    assert seen[0][0] == (3, 240, 256, 3)
    np.testing.assert_allclose(output.field[:, 9, 9], [(0, 6), (0, 0), (0, 0), (10, 0), (0, 0)])


def test_an_unknown_flow_is_told():
    with pytest.raises(UserError, match="dis, lk, raft"):
        flow_method(scenes.context(flow="farneback"))


def test_the_camera_is_what_most_agree_with():
    """A third of the flow is a subject of its own, and some has no texture."""
    angle, zoom = 0.01, 1.02
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    where = camera.pixel_positions((120, 200), (240, 400))
    field = where @ turn.T.astype(np.float32) + np.float32([3, -2]) - where
    field[:, :65] += (6, 1)
    textured = np.ones(field.shape[:2], bool)
    field[100:], textured[100:] = 50, False
    matrix = camera.fit(where, field, textured, 0.5)
    np.testing.assert_allclose(matrix, np.hstack([turn, [[3], [-2]]]), atol=1e-3)
    assert (camera.fit(where, field, textured & False, 0.5) == np.eye(2, 3)).all()
