"""Stands before the page: who may ask, and that files come by upload only.

Two attacks reach a page that listens on loopback. A site that the user visits sends requests from
their browser: by its own name, which now leads to 127.0.0.1 (DNS rebinding, a foreign Host), or
across origins (a foreign Origin). And a request names a file that was never uploaded: one of this
machine, or an address that the server would fetch.
"""

import ipaddress
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

UPLOAD = "/gradio_api/upload"
_LARGEST = 1_000_000  # bytes of a request that uploads nothing: texts and names of uploads
_POLICY = {"content-security-policy": "frame-ancestors 'none'", "referrer-policy": "no-referrer"}


class Refused(Exception):
    """Why a request is not answered, and with which status."""

    def __init__(self, reason: str, status: int = 403):
        super().__init__(reason)
        self.status = status


class Guard:
    """An ASGI application that lets pass what another one may answer.

    Attributes:
        app: the other one.
        uploads: the folder that uploads lie in; files elsewhere are refused, and so are links.
        host: the address that is listened on. If it is loopback, requests must be for loopback;
            else for an address in digits, which no foreign name can stand for.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: str, host: str):
        self.app, self.uploads, self.host = app, os.path.realpath(uploads), host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request; what is refused never reaches the application."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        try:
            if scope["type"] != "http":
                raise Refused("only HTTP is spoken here")
            headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
            check_origin(headers, self.host)
            posted = scope["method"] == "POST"
            if posted and scope["path"].rstrip("/") != UPLOAD:
                body = await _body(receive)
                check_files(body, self.uploads, headers["host"].decode("latin-1"))
                receive = _again(body, receive)
        except Refused as refused:
            return await _refuse(refused, send)
        await self.app(scope, receive, _with_policy(send))


def check_origin(headers: Mapping[str, bytes], host: str) -> None:
    """Refuses requests for another machine's name, or from another site's page.

    Args:
        headers: of the request, in lower case.
        host: the address that is listened on.
    """
    asked = headers.get("host", b"").decode("latin-1")
    name = _name(asked)
    if is_loopback(host):
        known = is_loopback(name)
    else:
        known = name == host or is_loopback(name) or _is_address(name)
    if not known:
        raise Refused(f"this page answers to the address that it listens on, not to {asked!r}")
    origin = headers.get("origin", b"").decode("latin-1")
    if origin and origin not in (f"http://{asked}", f"https://{asked}"):
        raise Refused(f"this page answers to itself only, not to one of {origin!r}")


def check_files(body: bytes, uploads: str, host: str) -> None:
    """Refuses a request that names a file which was not uploaded, or an address to fetch.

    Args:
        body: of the request, JSON; an empty one names nothing.
        uploads: the folder of what was uploaded.
        host: of the page, whose own addresses of uploads the browser sends along.
    """
    try:
        given = json.loads(body or b"null")
    except (ValueError, RecursionError) as error:
        raise Refused("the request is no JSON; files go to " + UPLOAD, 400) from error
    for found in _records(given):
        path, url = found.get("path"), found.get("url")
        if path is not None and not _uploaded(path, uploads):
            raise Refused(f"{path!r} was not uploaded: send the file to {UPLOAD} first")
        own = isinstance(url, str) and url.startswith((f"http://{host}/", f"https://{host}/"))
        if url is not None and (path is None or not own):
            raise Refused("addresses are not fetched: send the file to " + UPLOAD)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and reached from nowhere else."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _name(host: str) -> str:
    """The host of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _records(given: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON value, however deep."""
    waiting = [given]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _uploaded(path: Any, uploads: str) -> bool:
    """Whether a path is a file in the folder of uploads, and no link on the way leads out."""
    if not isinstance(path, str) or "\0" in path or not os.path.isabs(path):
        return False
    inside = os.path.commonpath([os.path.realpath(path), uploads]) == uploads
    return inside and not os.path.islink(path) and os.path.isfile(path)


async def _body(receive: Any) -> bytes:
    """The whole body of a request."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused("the request broke off", 400)
        body += message.get("body", b"")
        if len(body) > _LARGEST:
            raise Refused(f"more than {_LARGEST:,} bytes; files go to {UPLOAD}", 413)
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Any) -> Callable[[], Awaitable[Any]]:
    """A `receive` that gives a body that was read before, and then what else comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Any:
        return waiting.pop() if waiting else await receive()

    return given


async def _refuse(refused: Refused, send: Any) -> None:
    body = json.dumps({"detail": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_policy(send: Any) -> Callable[[Any], Awaitable[None]]:
    """A `send` that forbids other pages to frame this one."""

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in _POLICY.items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return sent
