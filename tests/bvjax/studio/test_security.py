"""Who is let in, and who is not."""

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from bvjax.errors import UserError
from bvjax.studio import security
from bvjax.studio.security import MOST_JSON, Guard

TOKEN = "a-token-of-some-length"


async def anything(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "in"})
        return
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await PlainTextResponse(f"in {size}")(scope, receive, send)


def client(host="127.0.0.1", token=None, name="localhost:8642"):
    return TestClient(Guard(anything, token, host, "/up"), base_url=f"http://{name}")


@pytest.mark.parametrize(
    ("host", "name", "code"),
    [
        ("127.0.0.1", "localhost:8642", 200),
        ("127.0.0.1", "127.0.0.1:1", 200),
        ("127.0.0.1", "[::1]:8642", 200),
        ("127.0.0.1", "evil.example:8642", 421),
        ("127.0.0.1", "localhost.evil.example", 421),
        ("127.0.0.1", "10.0.0.7", 421),
        ("0.0.0.0", "10.0.0.7:8642", 200),
        ("0.0.0.0", "evil.example", 421),
    ],
)
def test_names_of_the_host(host, name, code):
    """A name that another site lets point to this machine is not the studio's (DNS rebinding)."""
    assert client(host, name=name).get("/").status_code == code


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:8642"}, 200),
        ({"Origin": "http://localhost:9999"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[broken"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
def test_other_sites(headers, code):
    assert client().post("/", headers=headers).status_code == code


def test_the_token_is_asked_for_everywhere():
    other = client("0.0.0.0", TOKEN, "10.0.0.7")
    for path in ("/", "/api/runs", "/app.js", "/?token=", "/?token=wrong", f"/api?token={TOKEN}"):
        assert other.get(path).status_code == 401, path
    assert other.get("/healthz").status_code == 200
    assert other.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert other.get("/", headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401
    assert other.get("/", headers={b"Cookie": b"bvjax_studio=wr\xf6ng"}).status_code == 401
    with pytest.raises(WebSocketDisconnect), other.websocket_connect("ws://10.0.0.7/ws"):
        pass
    came = other.get(f"/?token={TOKEN}", follow_redirects=False)
    assert came.status_code == 303 and came.headers["location"] == "/"
    cookie = came.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert other.get("/api/runs").status_code == 200  # by the cookie
    with other.websocket_connect("ws://10.0.0.7/ws") as socket:
        assert socket.receive_text() == "in"


def test_sockets_of_other_sites():
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        with (
            pytest.raises(WebSocketDisconnect),
            client().websocket_connect("ws://localhost:8642/ws", headers=headers),
        ):
            pass
    with client().websocket_connect(
        "ws://localhost:8642/ws", headers={"Origin": "http://localhost:8642"}
    ) as socket:
        assert socket.receive_text() == "in"


def test_sizes():
    def parts(count):
        yield from (b"x" * 1024 for _ in range(count))

    most = MOST_JSON // 1024
    assert client().post("/", content=parts(most)).text == f"in {MOST_JSON}"
    assert client().post("/", content=parts(most + 1)).status_code == 413  # of no stated length
    assert client().post("/", content=b"x" * (MOST_JSON + 1)).status_code == 413
    assert client().post("/up", content=b"x" * (MOST_JSON + 1)).status_code == 200
    assert client().get("/up", headers={"Content-Length": "9" * 40}).status_code == 413


def test_what_pages_may_do():
    headers = client().get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "token", ["short", "with spaces in the token", "a" * 15, "täglich-anders-x"]
)
def test_tokens_that_are_refused(token):
    with pytest.raises(UserError, match="16 or more"):
        security.token_for("127.0.0.1", token)


def test_a_token_is_made_where_others_come_in():
    assert security.token_for("127.0.0.1", None) is security.token_for("localhost", None) is None
    first, second = (security.token_for("0.0.0.0", None) for _ in range(2))
    assert first != second and len(first) >= 32
    assert security.token_for("::", TOKEN) == TOKEN
