"""Command line of storyworld; see --help."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from data_pipelines.storyworld.plan import SPLITS, make_story
from data_pipelines.storyworld.preview import preview


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and do what it asks; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.storyworld",
        description="Minute-long procedural stories: look at one, or take its captions.",
    )
    parser.add_argument("--preview", action="store_true",
                        help="write OUT/sheet.png (contact sheet) and OUT/story.mp4")  # fmt: skip
    parser.add_argument("--story-json", type=Path, metavar="FILE",
                        help='write {"captions": [...]} of the story to FILE')  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="which story (default 0)")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--size", type=int, default=256, help="pixels of the video (default 256)")
    parser.add_argument("--fps", type=int, default=24, help="frame rate of the video (default 24)")
    parser.add_argument("--out", type=Path, default=Path("runs/storyworld"), metavar="DIR")
    args = parser.parse_args(argv)
    if not args.preview and args.story_json is None:
        parser.error("nothing to do: give --preview, --story-json FILE, or both")
    try:
        story = make_story(args.seed, args.split)
        if args.story_json is not None:
            text = json.dumps({"captions": list(story.captions)}, indent=2, ensure_ascii=False)
            args.story_json.write_text(text + "\n")
            print(args.story_json)
        if args.preview:
            print(*preview(args.seed, args.split, args.size, args.fps, args.out), sep="\n")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
