"""Moments of a script: positions of the camera and the subjects, and the subjects' poses."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.storyworld.shapes import smoothstep
from data_pipelines.storyworld.world import (
    CHUNK_SECONDS,
    EXIT_X,
    PLACE_SPACING,
    Beat,
    ChunkPlan,
    Story,
)

# Windows inside a chunk (fractions of it): arrivals end before departures begin, and subjects have
# arrived by half time.  All are as long as that allows: in half a second, which is one latent at 8
# frames a second, pans and walks cover about half a frame.
PAN = (0.02, 0.60)
ENTER = (0.02, 0.50)
LEAVE = (0.60, 0.99)
SHIFT = (0.06, 0.50)
WALK = (0.06, 0.94)
DRIFT = (0.06, 0.86)
FADE = 0.08
STEP_RATE = 1.5  # strides per second


@dataclasses.dataclass(frozen=True)
class Pose:
    """turn: facing, -1 left .. +1 right, through 0 = towards us. step: leg swing in radians of a
    stride, stride: its strength 0..1. lift: height above ground, in body heights. squash: vertical
    stretch. lean: radians, positive to the right. arm: 0 down .. 1 raised. sit: 0..1. shut: eyelids
    0..1. head: sideways glance -1..1.
    """

    turn: float = 1.0
    step: float = 0.0
    stride: float = 0.0
    lift: float = 0.0
    squash: float = 1.0
    lean: float = 0.0
    arm: float = 0.0
    sit: float = 0.0
    shut: float = 0.0
    head: float = 0.0


@dataclasses.dataclass(frozen=True)
class Placed:
    """A subject on stage. x: panorama position in frame widths (same unrolled axis as Camera.x)."""

    subject: int
    x: float
    near: int  # drawing order; larger is in front
    pose: Pose


@dataclasses.dataclass(frozen=True)
class Camera:
    """x: frame widths along the unrolled panorama; zoom: 1 is the normal view."""

    x: float
    zoom: float


@dataclasses.dataclass(frozen=True)
class Moment:
    """Everything about one frame that does not depend on its size."""

    chunk: int  # 0-based
    seconds: float
    camera: Camera
    placed: tuple[Placed, ...]
    weather: str
    weather_before: str
    weather_mix: float  # 0: weather_before, 1: weather


def glide(u: float, window: tuple[float, float]) -> float:
    """0 to 1 across the window with short soft ends: its top speed is only 1.25 times the mean."""
    t = min(max((u - window[0]) / (window[1] - window[0]), 0.0), 1.0)
    ramp = 0.2
    top = 1.0 / (1.0 - ramp)
    if t < ramp:
        return top * t * t / (2 * ramp)
    if t > 1 - ramp:
        return 1.0 - top * (1 - t) ** 2 / (2 * ramp)
    return top * (t - ramp / 2)


def camera_at(chunk: ChunkPlan, u: float) -> Camera:
    """Camera at progress u in [0, 1] of a chunk."""
    e = glide(u, PAN if chunk.travel else DRIFT)
    slot = chunk.slot0 + (chunk.slot1 - chunk.slot0) * e
    dx = chunk.dx0 + (chunk.dx1 - chunk.dx0) * e
    zoom = float(np.exp(np.log(chunk.zoom0) * (1 - e) + np.log(chunk.zoom1) * e))
    return Camera(slot * PLACE_SPACING + dx, zoom)


def _gesture(action: str, t: float) -> dict[str, float]:
    """Pose deltas of an action at `t` seconds."""
    beat = 2 * np.pi * t
    if action == "hop":
        phase = (0.625 * t) % 1.0
        up = 4 * phase * (1 - phase)
        return dict(lift=0.12 * up, squash=0.07 * (up - 0.45))
    if action == "wave":
        return dict(arm=0.8 + 0.2 * np.sin(0.75 * beat), lean=0.04 * np.sin(0.75 * beat))
    if action == "sit":
        return dict(sit=1.0, squash=0.015 * np.sin(0.5 * beat))
    if action == "sleep":
        return dict(sit=1.0, shut=1.0, lean=0.10, squash=0.03 * np.sin(0.35 * beat) - 0.05)
    if action == "dance":
        sway = np.sin(0.5 * beat)
        return dict(lean=0.14 * sway, lift=0.04 * abs(sway), arm=0.5 + 0.5 * sway, head=0.5 * sway)
    if action == "look":
        return dict(head=np.sin(0.4 * beat), lean=0.03 * np.sin(0.4 * beat))
    return {}


def _envelope(beat: Beat, u: float) -> float:
    begin = ENTER[1] if beat.enter else 0.0
    end = LEAVE[0] if beat.leave else 1.0
    if beat.follows:
        begin = PAN[1]
    rise = 1.0 if beat.settled else smoothstep(begin, begin + FADE, u)
    fall = 1.0 if beat.stays else 1.0 - smoothstep(end - FADE, end, u)
    return float(rise * fall)


def _facing(beat: Beat, chunk: ChunkPlan, u: float) -> float:
    """Turning takes a moment: piecewise linear between the directions walked and faced."""
    keys = [(0.0, float(beat.face0))]
    if beat.enter:
        keys += [(ENTER[1] - 0.03, -beat.enter), (ENTER[1] + 0.05, beat.face1)]
    elif beat.follows:
        keys += [(0.06, chunk.travel), (PAN[1], chunk.travel), (PAN[1] + 0.08, beat.face1)]
    elif abs(beat.x1 - beat.x0) > 0.02:
        way = float(np.sign(beat.x1 - beat.x0))
        end = WALK[1] if beat.action == "walk" else SHIFT[1]
        keys += [(0.06, way), (end, way), (end + 0.08, beat.face1)]
    else:
        keys += [(0.08, beat.face1)]
    if beat.leave:
        keys += [(LEAVE[0] - 0.06, keys[-1][1]), (LEAVE[0] + 0.02, beat.leave)]
    turn = float(np.interp(u, [k[0] for k in keys], [k[1] for k in keys]))
    if beat.action == "spin":
        begin = max(ENTER[1] if beat.enter else 0.0, PAN[1] if beat.follows else 0.0) + 0.06
        end = LEAVE[0] - 0.06 if beat.leave else 0.94
        turn *= float(np.cos(2 * np.pi * smoothstep(begin, end, u)))
    return turn


def _place_subject(beat: Beat, chunk: ChunkPlan, u: float, seconds: float) -> Placed | None:
    slot = (chunk.slot0 if beat.left_behind else chunk.slot1) * PLACE_SPACING
    x, walking = beat.x0, 0.0

    def go(window, x0, x1):
        e = glide(u, window)
        return x0 + (x1 - x0) * e, float(window[0] < u < window[1]) * np.sin(np.pi * e) ** 0.25

    if beat.enter:
        if u <= ENTER[0]:
            return None
        x, walking = go(ENTER, beat.enter * EXIT_X, beat.x0)
    elif beat.follows:
        x, walking = go(PAN, beat.x0, beat.x1)
        camera_slot = chunk.slot0 + (chunk.slot1 - chunk.slot0) * glide(u, PAN)
        slot = camera_slot * PLACE_SPACING
    elif abs(beat.x1 - beat.x0) > 0.02:
        x, walking = go(WALK if beat.action == "walk" else SHIFT, beat.x0, beat.x1)
    if beat.leave and u > LEAVE[0]:
        if u >= LEAVE[1]:
            return None
        x, walking = go(LEAVE, beat.x1, beat.leave * EXIT_X)
    weight = _envelope(beat, u)
    fields = {k: v * weight for k, v in _gesture(beat.action, seconds).items()}
    fields["squash"] = 1.0 + fields.get("squash", 0.0) + 0.012 * np.sin(2 * np.pi * 0.45 * seconds)
    blink = (seconds / 2.9 + 0.37 * beat.subject + 0.5) % 1.0  # not in frame 0, which opens a story
    if blink < 0.045:
        fields["shut"] = 1.0
    pose = Pose(
        turn=_facing(beat, chunk, u),
        step=2 * np.pi * STEP_RATE * seconds,
        stride=walking,
        **{"lift": 0.0} | fields,
    )
    if walking:
        bob = abs(np.sin(pose.step / 2)) * 0.04 * walking
        pose = dataclasses.replace(pose, lift=pose.lift + bob)
    return Placed(beat.subject, slot + x, 0, pose)


def moment_at(story: Story, frame: int, fps: int = 8) -> Moment:
    """The moment of one frame; frame 0 opens chunk 0, frame 1+T(c-1)..Tc are chunk c."""
    length = int(CHUNK_SECONDS * fps)
    if not 0 <= frame <= length * story.n_chunks:
        raise ValueError(
            f"frame {frame} is outside this story, whose frames at {fps} fps are 0 to "
            f"{length * story.n_chunks}"
        )
    index = max(0, (frame - 1) // length)
    chunk, u = story.chunks[index], (frame - index * length) / length
    seconds = frame / fps
    placed = [_place_subject(b, chunk, u, seconds) for b in chunk.actions]
    mix = float(smoothstep(0.05, 0.6, u)) if chunk.weather != chunk.weather_before else 1.0
    return Moment(
        chunk=index,
        seconds=seconds,
        camera=camera_at(chunk, u),
        placed=tuple(p for p in placed if p is not None),
        weather=chunk.weather,
        weather_before=chunk.weather_before,
        weather_mix=mix,
    )
