"""storyworld: minute-long single-take videos with captions and exact ground truth, from a seed."""

from data_pipelines.storyworld.captions import mentions, wordings
from data_pipelines.storyworld.plan import make_story
from data_pipelines.storyworld.renderer import render
from data_pipelines.storyworld.truth import ReturnCase, Truth, return_cases, truth
from data_pipelines.storyworld.world import (
    ACCESSORIES,
    ACTIONS,
    COLOUR_RGB,
    COLOURS,
    HELD_OUT_COMBOS,
    NAMES,
    PLACES,
    SPECIES,
    TOPONYMS,
    WEATHERS,
    Beat,
    ChunkPlan,
    Place,
    Story,
    Subject,
    chunk_frames,
    num_frames,
)

__all__ = [
    "ACCESSORIES", "ACTIONS", "COLOURS", "COLOUR_RGB", "HELD_OUT_COMBOS", "NAMES", "PLACES",
    "SPECIES", "TOPONYMS", "WEATHERS", "Beat", "ChunkPlan", "Place", "ReturnCase", "Story",
    "Subject", "Truth", "chunk_frames", "make_story", "mentions", "num_frames", "render",
    "return_cases", "truth", "wordings",
]  # fmt: skip
