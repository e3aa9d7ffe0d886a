"""python -m bvjax studio: its options."""

from __future__ import annotations

import argparse
from typing import Any

from bvjax import console


def register(commands: Any) -> None:
    """Adds the command to the parsers of the command line."""
    studio = commands.add_parser(
        "studio",
        help="a page that makes videos while you watch",
        description="Serve a page on which stories are written, made, changed while they are made, and branched.",
    )
    studio.set_defaults(command=_studio)
    add = studio.add_argument
    add("--weights", metavar="DIR", help="weights folder (default: the small model)")
    add("--runs", metavar="DIR", default="runs", help="folder of run folders (default: runs)")
    add("--loras", metavar="DIR", help="folder of LoRA files that visitors may switch on")
    add(
        "--preview-decoder",
        metavar="FILE",
        help="previews with a small decoder, as generate has it",
    )
    add("--port", type=int, metavar="N", default=8642, help="0 takes a free one (default: 8642)")
    add(
        "--host",
        metavar="H",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone)",
    )
    add(
        "--token",
        metavar="T",
        help="what visitors must know (default: none on this machine alone; elsewhere one is made)",
    )


def _studio(args: argparse.Namespace) -> None:
    from bvjax.studio.serve import serve

    console.set_up()
    serve(
        args.weights, args.runs, args.host, args.port, args.token, console.tell, args.loras,
        args.preview_decoder,
    )  # fmt: skip
