"""A page on which people look at the chunks that `data_pipelines.curate` found, and say which are good.

    python -m data_pipelines.review --data data/curated

Then open the address that it prints. Everything can be done from the keyboard; decisions are on the disk before the
page goes on, so that nothing is lost when anything is killed. Several reviewers may work at once, each under a name of
their own; `curate`, run again, leaves out what they rejected and takes the captions that they wrote.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bvjax import console
from bvjax.errors import UserError
from data_pipelines.curation.review_server import make_server


def serve(data: Path, host: str, port: int) -> None:
    """Serves until Ctrl-C; raises `UserError`."""
    if not 0 <= port <= 65535:
        raise UserError(f"`port` is {port}; it can be 0 to 65535")
    server = make_server(data, host, port)
    console.tell(f"http://{host}:{server.server_address[1]}/ (Ctrl-C ends)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        console.tell("decisions are kept; python -m data_pipelines.curate takes them")
    finally:
        server.server_close()


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and serve; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.review",
        description="Serves a page for the review of chunks.",
    )
    parser.add_argument(
        "--data",
        type=console.path,
        required=True,
        metavar="DIR",
        help="folder that curate has written",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8321, help="0 takes a free one")
    a = parser.parse_args(argv)
    return console.run(lambda: serve(a.data, a.host, a.port), "error")


if __name__ == "__main__":
    sys.exit(main())
