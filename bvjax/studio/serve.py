"""The command `python -m bvjax studio`: everything is checked, then the studio listens."""

from __future__ import annotations

import pathlib
import socket

import uvicorn
from absl import logging

from bvjax.errors import UserError
from bvjax.files import cannot_write
from bvjax.runs.pipeline import load
from bvjax.studio.security import is_loopback, token_for
from bvjax.studio.server import make_app
from bvjax.studio.studio import Studio

_LARGEST_MESSAGE = 1 << 18  # bytes that a page may send over its socket at once


def serve(
    weights: str | None,
    runs: str,
    host: str,
    port: int,
    token: str | None,
    tell,
    loras: str | None = None,
    preview_decoder: str | None = None,
) -> None:
    """Serves until it is stopped.

    Args:
        weights: a weights folder; None takes those of the small model.
        runs: the folder of run folders; made if it is not there.
        loras: a folder of LoRA files that visitors may switch on.
        preview_decoder: a file of a small decoder, for previews.
        tell: gets the lines that say where the studio is.

    Raises `UserError` before anything is served.
    """
    token = token_for(host, token)
    if not 0 <= port < 2**16:
        raise UserError(f"`port` is {port}; it can be 0 (a free one) to {2**16 - 1}")
    root = pathlib.Path(runs)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(root, error) from None
    listening = _listen(host, port)
    path = lambda text: None if text is None else pathlib.Path(text)
    studio = Studio(load(weights or "mini"), root.resolve(), path(loras), path(preview_decoder))
    config = uvicorn.Config(
        make_app(studio, host, token), log_level="warning", ws_max_size=_LARGEST_MESSAGE,
        server_header=False, timeout_graceful_shutdown=5, ws="websockets-sansio",
    )  # fmt: skip
    everywhere = host in ("0.0.0.0", "::")  # no address that a browser could open
    shown = socket.gethostname() if everywhere else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/"
    tell(f"{studio.pipeline.model.name}: {len(studio.versions.all())} runs in {root}")
    tell(f"the studio is at {address}{f'?token={token}' if token else ''} (Ctrl-C ends it)")
    if token and not is_loopback(host):
        logging.warning(
            "others can reach this studio, and read what it sends: put HTTPS in front of it, or use ssh -L"
        )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises `UserError` where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        return listening
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; "
            "give another `host` or `port`"
        ) from None
