"""Command line of storyworld; see --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bvjax import console
from bvjax.files import write_json
from data_pipelines.storyworld.cuts import as_json
from data_pipelines.storyworld.plan import SPLITS, make_story
from data_pipelines.storyworld.preview import preview
from data_pipelines.storyworld.words import word_list
from data_pipelines.storyworld.world import check_seed, check_size


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and do what it asks; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.storyworld",
        description="Minute-long procedural stories: look at one, or take its captions.",
    )
    parser.add_argument(
        "--preview",
        action="store_true",
        help="write OUT/sheet.png (contact sheet) and OUT/story.mp4",
    )
    parser.add_argument(
        "--story-json",
        type=console.path,
        metavar="FILE",
        help='write {"captions": [...]} of the story to FILE',
    )
    parser.add_argument(
        "--words", action="store_true", help="print the words that the small model knows"
    )
    parser.add_argument(
        "--cuts", action="store_true", help="with --story-json: a story of several shots"
    )
    parser.add_argument("--seed", type=int, default=0, help="which story (default 0)")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--size", type=int, default=256, help="pixels of the video (default 256)")
    parser.add_argument("--fps", type=int, default=24, help="frame rate of the video (default 24)")
    parser.add_argument("--out", type=console.path, default=Path("runs/storyworld"), metavar="DIR")
    args = parser.parse_args(argv)
    if not (args.preview or args.words or args.story_json is not None):
        parser.error("nothing to do: give --preview, --words, --story-json FILE, or several")

    def command() -> None:
        check_size(args.size, args.size, args.fps)
        check_seed(args.seed)
        if args.words:
            print(word_list(), end="")
        story = make_story(args.seed, args.split, shots=args.cuts)
        if args.story_json is not None:
            content = as_json(story)
            args.story_json.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.story_json, content)
            print(args.story_json)
        if args.preview:
            print(*preview(args.seed, args.split, args.size, args.fps, args.out), sep="\n")

    return console.run(command, "error")


if __name__ == "__main__":
    sys.exit(main())
