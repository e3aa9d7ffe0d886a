"""The routes: the page, its files, JSON for what visitors ask, and one socket for what is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from absl import logging
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

import bvjax
from bvjax.errors import UserError
from bvjax.media.video_io import jpeg
from bvjax.studio import fragments, protocol
from bvjax.studio.hub import Listener
from bvjax.studio.jobs import OURS
from bvjax.studio.making import Event
from bvjax.studio.security import Guard
from bvjax.studio.studio import Studio
from bvjax.studio.versions import NoSuchRun

PAGE = pathlib.Path(bvjax.__file__).parent / "assets" / "studio"
UPLOADS = "/api/uploads"
MOST_SOCKETS = 200
_SCRIPTS = sorted(path.stem for path in PAGE.glob("*.js"))
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in _SCRIPTS},
}
_VISITOR = re.compile(r"[A-Za-z0-9-]{8,64}")
_DOWNLOADS = {"video.mp4": "video/mp4", "report.png": "image/png", "story.json": "application/json"}

Handler = Callable[[Request], Awaitable[Response]]


def make_app(studio: Studio, host: str = "127.0.0.1", token: str | None = None) -> ASGIApp:
    """The application of a studio that listens on `host`; its worker begins and ends with it."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        studio.hub.begin()
        studio.jobs.start()
        yield
        await run_in_threadpool(studio.jobs.close)

    routes = _Routes(studio)
    app = Starlette(routes=routes.table(), lifespan=lifespan)
    return Guard(app, token, host, UPLOADS)


def _answers(handler: Handler) -> Handler:
    """A handler whose refusals are sentences."""

    async def answering(request: Request) -> Response:
        try:
            return await handler(request)
        except NoSuchRun as error:
            return JSONResponse({"error": str(error)}, 404)
        except UserError as error:
            return JSONResponse({"error": str(error).replace("`", "")}, 400)
        except ClientDisconnect:
            return Response(status_code=400)
        except OSError as error:
            logging.error("%s: %s", request.url.path, error)
            return JSONResponse({"error": f"not written: {error.strerror or error}"}, 507)

    return answering


class _Routes:
    """The handlers, over one studio."""

    def __init__(self, studio: Studio):
        self._studio = studio

    def table(self) -> list[Route | WebSocketRoute]:
        get = [
            ("/healthz", self._healthy),
            ("/api/about", self._about),
            ("/api/runs", self._gallery),
            ("/api/runs/{name}", self._described),
            ("/api/runs/{name}/still/{number:int}", self._still),
            ("/api/runs/{name}/file/{file}", self._file),
            *((path, self._page) for path in _FILES),
        ]
        post = [
            (UPLOADS, self._upload),
            ("/api/words", self._words),
            ("/api/story", self._story),
            ("/api/runs", self._create),
            ("/api/runs/{name}/{action}", self._act),
        ]
        routes: list[Route | WebSocketRoute] = [
            Route(path, _answers(handler), methods=["GET"]) for path, handler in get
        ]
        routes += [Route(path, _answers(handler), methods=["POST"]) for path, handler in post]
        return [*routes, WebSocketRoute("/ws", self._socket)]

    # ---- told ---------------------------------------------------------------------------------
    async def _page(self, request: Request) -> Response:
        name, kind = _FILES[request.url.path]
        return FileResponse(PAGE / name, media_type=kind, headers={"Cache-Control": "no-cache"})

    async def _healthy(self, _: Request) -> Response:
        return JSONResponse({"alive": True})

    async def _about(self, _: Request) -> Response:
        return JSONResponse(self._studio.about())

    async def _gallery(self, _: Request) -> Response:
        return JSONResponse({"runs": await run_in_threadpool(self._studio.gallery)})

    async def _described(self, request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse(await run_in_threadpool(self._studio.described, name))

    async def _still(self, request: Request) -> Response:
        name, number = request.path_params["name"], request.path_params["number"]
        content = await run_in_threadpool(self._studio.still, name, number)
        keyed = {"Cache-Control": "private, max-age=86400"} if "key" in request.query_params else {}
        return Response(content, media_type="image/jpeg", headers=keyed)

    async def _file(self, request: Request) -> Response:
        version = self._studio.versions.find(request.path_params["name"])
        file = request.path_params["file"]
        if file not in _DOWNLOADS or not (version.path / file).is_file():
            raise NoSuchRun(f"the run has no file {file[:40]!r}")
        name = f"{version.name}-{file}" if file != "video.mp4" else f"{version.name}.mp4"
        inline = "attachment" if "download" in request.query_params else "inline"
        return FileResponse(
            version.path / file,
            media_type=_DOWNLOADS[file],
            filename=name,
            content_disposition_type=inline,
        )

    # ---- asked for ----------------------------------------------------------------------------
    async def _words(self, request: Request) -> Response:
        captions = protocol.captions((await _json(request)).get("captions"), unfinished=True)
        return JSONResponse(await run_in_threadpool(self._studio.words, captions))

    async def _story(self, request: Request) -> Response:
        content = (await _json(request)).get("story")
        return JSONResponse(await run_in_threadpool(self._studio.story, content))

    async def _upload(self, request: Request) -> Response:
        kind = request.query_params.get("kind", "")
        name = await self._studio.uploads.take(request.stream(), kind)
        return JSONResponse({"name": name})

    async def _create(self, request: Request) -> Response:
        asked = protocol.new_run(await _json(request))
        name = await run_in_threadpool(self._studio.create, asked, _visitor(request))
        return JSONResponse({"name": name}, 201)

    async def _act(self, request: Request) -> Response:
        name, action = request.path_params["name"], request.path_params["action"]
        studio, content = self._studio, await _json(request)
        version = studio.versions.find(name)
        if action == "go":
            studio.jobs.go(name, _visitor(request))
        elif action in ("pause", "stop"):
            studio.jobs.pause(name, stop=action == "stop")
        elif action == "captions":
            await asyncio.wrap_future(studio.rewrite(name, protocol.change(content)))
        elif action == "loras":
            await asyncio.wrap_future(studio.switch(name, protocol.change(content)))
        elif action == "take-back":
            keep = protocol.whole(content.get("keep"), "keep", 0, len(version.captions) - 1)
            await asyncio.wrap_future(studio.take_back(name, keep))
        elif action == "redo":
            await asyncio.wrap_future(studio.redo(name, protocol.change(content)))
            studio.jobs.go(name, _visitor(request))
        elif action == "branch":
            name = await asyncio.wrap_future(studio.branch(name, protocol.change(content)))
            studio.jobs.go(name, _visitor(request))
        elif action == "delete":
            await asyncio.wrap_future(studio.delete(name, protocol.deletion(content)))
        else:
            raise NoSuchRun(f"there is nothing called {action[:40]!r} to do with a run")
        return JSONResponse({"name": name, **studio.jobs.state(name)})

    # ---- the socket ---------------------------------------------------------------------------
    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        hub, listener = self._studio.hub, Listener()
        if len(hub) >= MOST_SOCKETS:
            await socket.close(1013, "too many pages are open")
            return
        watch = protocol.Watch((), frozenset(), False)
        hub.add(listener)
        for name, state in self._studio.jobs.states().items():
            listener.give(Event({"type": "state", "run": name, **state}))
        pictures = [False]
        sending = asyncio.create_task(_send(socket, listener, pictures))
        try:
            while True:
                text = await socket.receive_text()
                try:
                    watch = protocol.watch(protocol.read(text))
                    listener.watch(watch.runs)
                    pictures[0] = watch.pictures
                    for name in watch.runs:
                        for event in await run_in_threadpool(self._studio.pieces, name, watch.have):
                            listener.give(event)
                except UserError as error:
                    listener.give(Event({"type": "error", "text": str(error)}))
        except (WebSocketDisconnect, KeyError):  # KeyError: bytes instead of text
            pass
        finally:
            hub.remove(listener)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending


async def _send(socket: WebSocket, listener: Listener, pictures: list[bool]) -> None:
    """Sends what comes into a page's queue until it is too far behind, or gone."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while (event := await listener.queue.get()) is not None:
            if not event.payload:
                await socket.send_text(json.dumps(event.message, ensure_ascii=False))
                continue
            message, payload = dict(event.message), event.payload
            if message["type"] == "chunk":
                message["codec"] = fragments.codec(payload)
                if pictures[0]:
                    shown = await run_in_threadpool(_jpegs, payload)
                    message["sizes"] = [len(picture) for picture in shown]
                    payload = b"".join(shown)
            await socket.send_bytes(protocol.framed(message, payload))
        await socket.close(1013, "the page is too slow; it begins anew")


def _jpegs(piece: bytes) -> list[bytes]:
    """The frames of a piece, for pages whose browsers have no Media Source Extensions."""
    return [jpeg(picture) for picture in fragments.decode(piece)]


def _visitor(request: Request) -> str:
    """The visitor who asks, by a name that the page makes up, so that visitors take turns; not a proof of anything."""
    name = request.headers.get("x-visitor", "")
    return name if _VISITOR.fullmatch(name) else OURS


async def _json(request: Request) -> dict[str, Any]:
    """The object in a request's body, which says that it is JSON: no form of another page can."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UserError("the request is not application/json")
    return protocol.read(await request.body() or b"{}")
