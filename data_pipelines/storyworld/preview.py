"""A contact sheet and a video that show what storyworld looks like."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from data_pipelines.storyworld.motion import Pose
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.renderer import render
from data_pipelines.storyworld.rig import paint
from data_pipelines.storyworld.shapes import Canvas
from data_pipelines.storyworld.sprites import build
from data_pipelines.storyworld.world import (
    ACCESSORIES,
    COLOURS,
    PLACES,
    SPECIES,
    WEATHERS,
    Story,
    Subject,
    chunk_frames,
    num_frames,
)

PAPER, INK, FAINT = (250, 248, 243), (40, 40, 48), (120, 120, 130)
THUMB, PAD, LINES = 128, 10, 5
COLUMNS = 5


def identity_grid(tile: int = 92) -> Image.Image:
    """Species down, colours across; accessories take turns."""
    rows = []
    for i, species in enumerate(SPECIES):
        row = []
        for j, colour in enumerate(COLOURS):
            subject = Subject(
                "", species, colour, ACCESSORIES[(i + 2 * j) % len(ACCESSORIES)], 0.64
            )
            canvas = Canvas(0.0, 0.0, 0.5 / tile, 2 * tile, 2 * tile)
            canvas.below(
                np.zeros(2 * tile, np.float32), (0.86, 0.92, 0.94), (0.93, 0.92, 0.84), 1.0
            )
            canvas.ellipse(0.5, 0.90, 0.32, 0.05, (0.70, 0.72, 0.70), soft=0.05)
            paint(canvas, build(subject, Pose(turn=(-1.0) ** j), 0.5, 0.91, 1.0))
            row.append(canvas.rgba[..., :3].reshape(tile, 2, tile, 2, 3).mean((1, 3)))
        rows.append(np.concatenate(row, 1))
    picture = np.clip(np.concatenate(rows, 0), 0.0, 1.0)
    return Image.fromarray((picture * 255 + 0.5).astype(np.uint8))


def relit(story: Story, kind: str, weather: str, index: int) -> Story:
    """The first chunk of a story moved to another place and light, with another subject in it."""
    subject = dataclasses.replace(
        story.subjects[0], species=SPECIES[index % 8], colour=COLOURS[(3 * index) % 8]
    )
    chunk = dataclasses.replace(story.chunks[0], weather=weather, weather_before=weather)
    return dataclasses.replace(
        story,
        subjects=(subject,),
        places=(
            dataclasses.replace(story.places[0], kind=kind, look=story.places[0].look + index),
        ),
        chunks=(chunk,),
    )


def places_grid(seed: int, tile: int = 96) -> Image.Image:
    """Places down, weather across."""
    story = make_story(seed, n_chunks=1)
    rows = []
    for i, kind in enumerate(tqdm(PLACES, desc="places", leave=False, disable=None)):
        tiles = [
            render(relit(story, kind, weather, i + j), [20], height=tile, width=tile)[0]
            for j, weather in enumerate(WEATHERS)
        ]
        rows.append(np.concatenate(tiles, 1))
    return Image.fromarray(np.concatenate(rows, 0))


def story_sheet(story: Story, fps: int = 8) -> Image.Image:
    """Two frames of every chunk (a quarter in, and the last) over its caption."""
    font, title = ImageFont.load_default(11), ImageFont.load_default(16)
    cell_w, cell_h = 2 * THUMB + PAD, THUMB + 14 * LINES
    n_rows = -(-story.n_chunks // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * cell_w + PAD, n_rows * cell_h + 34), PAPER)
    draw = ImageDraw.Draw(sheet)
    cast = ", ".join(f"{s.name} the {s.colour} {s.species}" for s in story.subjects)
    where = ", ".join(f"{p.toponym} ({p.kind})" for p in story.places)
    draw.text((PAD, 8), f"{story.split} {story.seed}: {cast}  ·  {where}", INK, title)
    for c, caption in enumerate(story.captions):
        span = chunk_frames(c + 1, fps)
        pair = render(story, [span[len(span) // 4], span[-1]], height=THUMB, width=THUMB, fps=fps)
        x, y = PAD + (c % COLUMNS) * cell_w, 34 + (c // COLUMNS) * cell_h
        sheet.paste(Image.fromarray(np.concatenate(list(pair), 1)), (x, y))
        for k, line in enumerate(textwrap.wrap(caption, 44)[:LINES]):
            draw.text((x, y + THUMB + 2 + 13 * k), line, FAINT if "(" == line[0] else INK, font)
    return sheet


def contact_sheet(seed: int, split: str, stories: int = 3) -> Image.Image:
    """Several stories, then every identity, then every place in every light."""
    sheets = [
        story_sheet(make_story(seed + i, split))
        for i in tqdm(range(stories), desc="stories", leave=False, disable=None)
    ]
    left, right = identity_grid(), places_grid(seed)
    width = max(
        p.width for p in [*sheets, Image.new("RGB", (left.width + right.width + 3 * PAD, 1))]
    )
    height = sum(p.height for p in sheets) + max(left.height, right.height) + 2 * PAD
    sheet = Image.new("RGB", (width, height), PAPER)
    y = 0
    for story_image in sheets:
        sheet.paste(story_image, (0, y))
        y += story_image.height
    sheet.paste(left, (PAD, y + PAD))
    sheet.paste(right, (left.width + 2 * PAD, y + PAD))
    return sheet


def write_video(story: Story, path: Path, size: int, fps: int) -> None:
    """Render a story to H.264 (yuv420p, so `size` is rounded up to an even number)."""
    import av

    from bvjax.media.video_frames import location, tag, yuv420

    size += size % 2
    with av.open(location(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        tag(stream)
        stream.options = {"crf": "18", "preset": "veryfast"}
        for i in tqdm(range(num_frames(story, fps)), desc=path.name, unit="frame", disable=None):
            picture = render(story, [i], height=size, width=size, fps=fps)[0]
            container.mux(stream.encode(yuv420(picture)))
        container.mux(stream.encode())


def preview(seed: int, split: str, size: int, fps: int, out: Path) -> tuple[Path, Path]:
    """Write OUT/sheet.png and OUT/story.mp4 and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    sheet, video = out / "sheet.png", out / "story.mp4"
    contact_sheet(seed, split).save(sheet)
    write_video(make_story(seed, split), video, size, fps)
    return sheet, video
