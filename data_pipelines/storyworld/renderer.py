"""render(): frames of a story as uint8 pictures, any size, any frame rate, in any order."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.storyworld import rig, scenery, sprites, weather
from data_pipelines.storyworld.motion import Camera, Moment, Placed, moment_at
from data_pipelines.storyworld.scenery import PIVOT, Layer
from data_pipelines.storyworld.shapes import Canvas
from data_pipelines.storyworld.world import Place, Story, check_size, num_frames

FOOT = 0.92  # where subjects stand, in frame heights at zoom 1
SHADOW = 0.38  # how dark the middle of a shadow is
CLOUD_SPEED = 0.012  # frame widths per second


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Everything that frames of one panorama under one weather share at one size."""

    layers: dict[str, Layer]
    clouds: Layer
    sky: np.ndarray
    shafts: tuple[np.ndarray, ...]
    particles: tuple[Layer, ...]
    last: dict = dataclasses.field(default_factory=dict)  # memo of _backdrop; changes no result


@functools.lru_cache(maxsize=4)
def _painted(places: tuple[Place, ...], seed: int, height: int, width: int, lamps: float):
    """The panorama in neutral light."""
    return scenery.paint_layers(places, seed, height, width, lamps)


@functools.lru_cache(maxsize=6)
def prepare(places: tuple[Place, ...], seed: int, light: str, height: int, width: int) -> Prepared:
    """Paints the panorama of `places`, once for all weathers that light the lamps alike, and relights it.

    Stories with the same places and seed share it, whoever their cast is.
    """
    painted = _painted(places, seed, height, width, weather.LIGHTS[light].lamps)
    return Prepared(
        layers={
            name: dataclasses.replace(
                layer, rgba=weather.grade(layer.rgba, light, weather.DISTANCE[name])
            )
            for name, layer in painted.items()
        },
        clouds=weather.clouds(light, seed, height, width),
        sky=weather.sky(light, height, width),
        shafts=weather.shafts(light, height, width),
        particles=weather.particles(light, height, width),
    )


def screen_x(x: float, camera: Camera) -> float:
    """Panorama position to frame widths from the left edge (ground layer, zoom included)."""
    return 0.5 + (x - camera.x) * camera.zoom


def screen_y(y: float, zoom: float) -> float:
    """Height in the unzoomed frame to height in the frame."""
    return PIVOT + (y - PIVOT) * zoom


def subject_parts(
    story: Story, placed: Placed, camera: Camera, height: int, width: int
) -> list[rig.Part]:
    """Parts of a subject in frame heights, x measured from the left edge of the frame."""
    unit = camera.zoom * min(1.0, width / height)
    x = screen_x(placed.x, camera) * width / height
    foot = screen_y(FOOT, camera.zoom)
    return sprites.build(story.subjects[placed.subject], placed.pose, x, foot, unit)


def subject_canvas(parts: list[rig.Part], height: int, width: int):
    """(canvas, row slice, column slice) of the visible part of a subject, or None off frame."""
    x0, y0, x1, y1 = rig.bounds(parts)
    c0, c1 = max(int(np.floor(x0 * height)) - 1, 0), min(int(np.ceil(x1 * height)) + 1, width)
    r0, r1 = max(int(np.floor(y0 * height)) - 1, 0), min(int(np.ceil(y1 * height)) + 1, height)
    if c0 >= c1 or r0 >= r1:
        return None
    canvas = Canvas(c0 / height, r0 / height, 1.0 / height, r1 - r0, c1 - c0)
    rig.paint(canvas, parts)
    return canvas, slice(r0, r1), slice(c0, c1)


def _over(image: np.ndarray, rgba: np.ndarray) -> None:
    """Composite premultiplied RGBA in place onto an opaque RGB or a premultiplied RGBA picture."""
    image *= 1.0 - rgba[..., 3:]
    image += rgba[..., : image.shape[-1]]


def _shadow(image, story: Story, placed: Placed, camera: Camera) -> None:
    """A soft ellipse under the feet, smaller and fainter when the subject is in the air."""
    height, width = image.shape[:2]
    subject = story.subjects[placed.subject]
    unit = camera.zoom * min(1.0, width / height) * subject.size
    lift = max(0.0, 1.0 - 1.6 * placed.pose.lift)
    x = screen_x(placed.x, camera) * width / height
    y = screen_y(FOOT + 0.005, camera.zoom)
    rx, ry = 0.42 * unit * (0.7 + 0.3 * lift), 0.085 * unit
    c0, c1 = max(int((x - 2 * rx) * height), 0), min(int((x + 2 * rx) * height) + 1, width)
    r0, r1 = max(int((y - 2 * ry) * height), 0), min(int((y + 2 * ry) * height) + 1, height)
    if c0 >= c1 or r0 >= r1:
        return
    px = (np.arange(c0, c1, dtype=np.float32) + 0.5) / height
    py = (np.arange(r0, r1, dtype=np.float32) + 0.5) / height
    d2 = ((px[None, :] - x) / rx) ** 2 + ((py[:, None] - y) / ry) ** 2
    dark = 1.0 - SHADOW * lift * np.exp(-1.2 * d2 * d2)
    image[r0:r1, c0:c1] *= dark[..., None].astype(np.float32)


def _backdrop(prepared: Prepared, camera: Camera, height: int, width: int):
    """(everything behind the subjects but the sky, the layer in front of them), RGBA. The camera
    rests most of the time, so the last answer is kept."""
    if prepared.last.get("key") != camera:
        views = {
            name: scenery.sample(layer, camera.x, camera.zoom, height, width)
            for name, layer in prepared.layers.items()
        }
        behind = np.ascontiguousarray(views["far"])
        for name in ("mid", "ground"):
            _over(behind, views[name])
        prepared.last.update(key=camera, views=(behind, np.ascontiguousarray(views["fore"])))
    return prepared.last["views"]


def _frame(story: Story, moment: Moment, light: str, height: int, width: int):
    """One frame under one weather, float [h, w, 3]."""
    camera, prepared = moment.camera, prepare(story.places, story.seed, light, height, width)
    behind, before = _backdrop(prepared, camera, height, width)
    image, clouds = prepared.sky.copy(), prepared.clouds
    drift = camera.x + CLOUD_SPEED * moment.seconds / clouds.parallax
    _over(image, scenery.sample(clouds, drift, camera.zoom, height, width, top=0.0))
    _over(image, behind)
    for placed in moment.placed:
        _shadow(image, story, placed, camera)
    for placed in moment.placed:
        subject_drawing = subject_canvas(
            subject_parts(story, placed, camera, height, width), height, width
        )
        if subject_drawing is not None:
            canvas, rows, columns = subject_drawing
            _over(image[rows, columns], weather.grade(canvas.rgba, light))
    _over(image, before)
    for i, beam in enumerate(prepared.shafts):
        breath = np.float32(0.75 + 0.25 * np.sin(0.5 * moment.seconds + 2.1 * i))
        image += (1.0 - image) * (beam * breath)[..., None] * np.float32((1.0, 0.95, 0.78))
    for tile in prepared.particles:
        _over(image, weather.falling(tile, light, moment.seconds, camera.x, height, width))
    return image


def render_frame(
    story: Story, frame: int, height: int, width: int, fps: int
) -> Float[np.ndarray, "h w 3"]:
    """One frame in [0, 1]."""
    moment = moment_at(story, frame, fps)
    image = _frame(story, moment, moment.weather, height, width)
    if moment.weather_mix < 1.0:
        before = _frame(story, moment, moment.weather_before, height, width)
        image = before + np.float32(moment.weather_mix) * (image - before)
    return image


def render(
    story: Story,
    frames: Sequence[int] | None = None,
    *,
    height: int = 64,
    width: int = 64,
    fps: int = 8,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Frames of a story, all of them by default.

    Each frame is a pure function of its index, so any subset equals the same frames of the whole.
    Raises ValueError for a frame outside the story, and `UserError` for an impossible size.
    """
    check_size(height, width, fps)
    frame_indices = range(num_frames(story, fps)) if frames is None else frames
    out = np.empty((len(frame_indices), height, width, 3), np.uint8)
    for i, frame in enumerate(frame_indices):
        image = render_frame(story, int(frame), height, width, fps)
        out[i] = (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return out
