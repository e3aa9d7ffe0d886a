"""Exact ground truth of rendered frames: who is visible where, which place, which camera."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.storyworld import rig
from data_pipelines.storyworld.motion import Camera, moment_at
from data_pipelines.storyworld.renderer import subject_canvas, subject_parts
from data_pipelines.storyworld.scenery import FADE, LAYERS, SEAM_WANDER, layer_zoom
from data_pipelines.storyworld.world import (
    PLACE_SPACING,
    PLACES,
    WEATHERS,
    Story,
    check_size,
    chunk_frames,
    num_frames,
)


@dataclasses.dataclass(frozen=True)
class Truth:
    """Ground truth of n frames of a story with s subjects.

    visible: at least half of the subject's box is inside the frame and not covered by the box of
    who stands in front.
    boxes: x0, y0, x1, y1 in pixels, not cut at the frame; zeros for a subject off stage.
    place: index into PLACES of the place at the frame's centre.
    places_visible: places of which any layer shows a strip.
    camera: x in frame widths along the unrolled panorama, y (0), zoom.
    weather: index into WEATHERS; during a change, the stronger of the two.
    background: True where no subject is. subject_masks: pixels that show the subject; what another
    one covers is not its own. Both are None unless asked for.
    """

    visible: Bool[np.ndarray, "n s"]
    boxes: Float[np.ndarray, "n s 4"]
    place: Int[np.ndarray, " n"]
    places_visible: Bool[np.ndarray, "n p"]
    camera: Float[np.ndarray, "n 3"]
    weather: Int[np.ndarray, " n"]
    background: Bool[np.ndarray, "n h w"] | None = None
    subject_masks: Bool[np.ndarray, "n s h w"] | None = None


def _area(box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _intersection(box, other) -> tuple[float, float, float, float]:
    low = max(box[0], other[0]), max(box[1], other[1])
    return (*low, min(box[2], other[2]), min(box[3], other[3]))


def _shares(drawn_boxes: list[tuple[int, tuple]], width: int, height: int) -> dict[int, float]:
    """Share of each box, drawn from back to front, that is inside the frame and not covered. On
    stage are two at most, so that a box is covered by one other."""
    shares = {}
    for k, (subject, box) in enumerate(drawn_boxes):
        inside = _intersection(box, (0.0, 0.0, width, height))
        covered_area = max(
            (_area(_intersection(inside, front)) for _, front in drawn_boxes[k + 1 :]), default=0.0
        )
        shares[subject] = (_area(inside) - covered_area) / max(_area(box), 1e-9)
    return shares


def _places_in_view(story: Story, camera: Camera) -> set[int]:
    """Indices into story.places of all places of which any layer shows a strip."""
    n, visible_places = len(story.places), set()
    for name, parallax in LAYERS.items():
        reach = 0.5 / layer_zoom(camera.zoom, parallax)
        margin = FADE[name] + SEAM_WANDER
        ring = parallax * PLACE_SPACING * n
        for i in range(n):
            offset = (parallax * (camera.x - i * PLACE_SPACING) + 0.5 * ring) % ring - 0.5 * ring
            if abs(offset) < 0.5 * parallax * PLACE_SPACING + margin + reach:
                visible_places.add(i)
    return visible_places


def truth(
    story: Story,
    frames: Sequence[int] | None = None,
    *,
    height: int = 64,
    width: int = 64,
    fps: int = 8,
    masks: bool = False,
) -> Truth:
    """Ground truth of the frames that `render` draws for the same arguments."""
    check_size(height, width, fps)
    frame_indices = range(num_frames(story, fps)) if frames is None else frames
    n, s = len(frame_indices), len(story.subjects)
    visible, boxes = np.zeros((n, s), bool), np.zeros((n, s, 4), np.float32)
    place, lights = np.zeros(n, np.int32), np.zeros(n, np.int32)
    in_view, camera = np.zeros((n, len(PLACES)), bool), np.zeros((n, 3), np.float32)
    subject_masks = np.zeros((n, s, height, width), bool) if masks else None
    for i, frame in enumerate(frame_indices):
        moment = moment_at(story, int(frame), fps)
        camera_pose = moment.camera
        camera[i] = camera_pose.x, 0.0, camera_pose.zoom
        centre = int(np.floor(camera_pose.x / PLACE_SPACING + 0.5)) % len(story.places)
        place[i] = PLACES.index(story.places[centre].kind)
        for p in _places_in_view(story, camera_pose):
            in_view[i, PLACES.index(story.places[p].kind)] = True
        light = moment.weather if moment.weather_mix >= 0.5 else moment.weather_before
        lights[i] = WEATHERS.index(light)
        drawn_boxes: list[tuple[int, tuple]] = []
        for placed in moment.placed:
            parts = subject_parts(story, placed, camera_pose, height, width)
            box = tuple(height * v for v in rig.bounds(parts))
            boxes[i, placed.subject] = box
            drawn_boxes.append((placed.subject, box))
            if subject_masks is not None and (result := subject_canvas(parts, height, width)):
                canvas, rows, columns = result
                solid = canvas.rgba[..., 3] >= 0.5
                subject_masks[i, :, rows, columns] &= ~solid
                subject_masks[i, placed.subject, rows, columns] |= solid
        for subject, share in _shares(drawn_boxes, width, height).items():
            visible[i, subject] = share >= 0.5
    background = ~subject_masks.any(1) if subject_masks is not None else None
    return Truth(visible, boxes, place, in_view, camera, lights, background, subject_masks)


@dataclasses.dataclass(frozen=True)
class ReturnCase:
    """A subject or place that comes back after a long absence.

    kind: "subject" or "place". index: into story.subjects or story.places. chunk: of the return;
    all three chunks count from 1. same_species_distractor: another subject of the story has its
    species (False for places).
    """

    kind: str
    index: int
    chunk: int
    last_seen_chunk: int
    first_seen_chunk: int
    same_species_distractor: bool


def _returns(seen_chunks: np.ndarray, shown_alone: np.ndarray, first_frame: bool, min_gap: int):
    """(chunk, last, first) for each qualifying return; seen_any, shown are per chunk."""
    if first_frame or not seen_chunks.any():
        return
    first = int(np.argmax(seen_chunks))
    for c in range(first + 1, len(seen_chunks)):
        if not shown_alone[c] or seen_chunks[c - 1]:
            continue
        last = int(np.flatnonzero(seen_chunks[:c])[-1])
        if c - last - 1 >= max(min_gap, 4):
            yield c + 1, last + 1, first + 1


def return_cases(story: Story, fps: int = 8, min_gap: int = 5) -> list[ReturnCase]:
    """Returns that only memory can draw right: unseen (not even a sliver) for at least `min_gap`
    whole chunks, not visible in frame 0 nor in the 4 chunks before the return. A subject
    counts if it is the only visible one in every frame of the second half of its return chunk, a
    place if it is the place at the frame's centre there."""
    ground_truth = truth(story, fps=fps, height=64, width=64)
    spans = [np.asarray(chunk_frames(c + 1, fps)) for c in range(story.n_chunks)]
    second_halves = [span[len(span) // 2 :] for span in spans]
    cases = []
    for i, subject in enumerate(story.subjects):
        on_stage = _touches(ground_truth.boxes[:, i])
        alone_in_frame = ground_truth.visible[:, i] & (ground_truth.visible.sum(1) == 1)
        others = [o for j, o in enumerate(story.subjects) if j != i]
        has_same_species = any(o.species == subject.species for o in others)
        seen_chunks = np.array([on_stage[s].any() for s in spans])
        shown_alone = np.array([alone_in_frame[s].all() for s in second_halves])
        for chunk, last, first in _returns(seen_chunks, shown_alone, bool(on_stage[0]), min_gap):
            cases.append(ReturnCase("subject", i, chunk, last, first, has_same_species))
    for i, item in enumerate(story.places):
        kind = PLACES.index(item.kind)
        seen_chunks = np.array([ground_truth.places_visible[s, kind].any() for s in spans])
        shown_alone = np.array([(ground_truth.place[s] == kind).all() for s in second_halves])
        for chunk, last, first in _returns(
            seen_chunks, shown_alone, bool(ground_truth.places_visible[0, kind]), min_gap
        ):
            cases.append(ReturnCase("place", i, chunk, last, first, False))
    return sorted(cases, key=lambda case: (case.chunk, case.kind))


def _touches(boxes: np.ndarray, size: float = 64.0) -> np.ndarray:
    """Does any part of the box lie inside the frame?"""
    return (boxes[:, 2] > 0) & (boxes[:, 0] < size) & (boxes[:, 2] > boxes[:, 0])
