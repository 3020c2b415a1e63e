"""Who may ask the page, and that files come by upload only: the guard alone, without Gradio."""

import asyncio
import json
import os

import pytest

from unified_fm.page.guard import Guard, is_loopback

PAGE = "127.0.0.1:7860"


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"an image")
    (folder / "link.png").symlink_to("/etc/passwd")
    (folder / "out").symlink_to(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"a secret")
    return folder


def ask(uploads, body=b"", *, path="/gradio_api/call/match", method="POST", on="127.0.0.1", **own):
    """(status, what the application behind the guard was given, or None, and the answer)."""
    reached = []

    async def app(scope, receive, send):
        reached.append((await receive()).get("body"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answered"})

    parts = [body[: len(body) // 2], body[len(body) // 2 :]]
    sent = []

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    headers = [(name.encode(), value.encode()) for name, value in {"host": PAGE, **own}.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Guard(app, str(uploads), on)(scope, receive, send))
    return sent[0]["status"], reached, sent[1]["body"].decode()


def call(*data):
    return json.dumps({"data": data}).encode()


def test_an_upload_is_let_through_whole(uploads):
    own = f"http://{PAGE}/gradio_api/file={uploads}/a.png"
    body = call({"path": f"{uploads}/a.png", "url": own, "meta": {}}, "a pear", None)
    assert ask(uploads, body) == (200, [body], "answered")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{uploads}/../secret.png",
        "{uploads}/link.png",
        "{uploads}/out/secret.png",
        "{uploads}/gone.png",
        "{uploads}",
        "{uploads}x/a.png",
        "a.png",
        "../secret.png",
        "",
        "{uploads}/a.png\0",
        "file:///etc/passwd",
        "http://127.0.0.1:9/a.png",
        7,
    ],
)
def test_a_file_that_was_not_uploaded_is_refused(uploads, path):
    named = path.format(uploads=uploads) if isinstance(path, str) else path
    status, reached, told = ask(uploads, call([{"image": {"path": named}, "caption": None}]))
    assert (status, reached) == (403, []) and "was not uploaded" in told


@pytest.mark.parametrize(
    "given",
    [
        {"url": "http://127.0.0.1:9/a.png"},
        {"path": "{uploads}/a.png", "url": "http://127.0.0.1:9/a.png"},
        {"path": "{uploads}/a.png", "url": "file:///etc/passwd"},
        {"path": "{uploads}/a.png", "url": f"http://{PAGE}.evil.example/a.png"},
        {"url": "data:image/png;base64,AAAA"},
    ],
)
def test_an_address_is_refused(uploads, given):
    named = {key: value.replace("{uploads}", str(uploads)) for key, value in given.items()}
    status, reached, told = ask(uploads, call(named))
    assert (status, reached) == (403, []) and "addresses are not fetched" in told


def test_every_post_but_an_upload_is_read(uploads):
    body = call({"path": "/etc/passwd"})
    for path in ("/gradio_api/queue/join", "/gradio_api/run/match", "/gradio_api/upload/x", "/"):
        assert ask(uploads, body, path=path)[:2] == (403, [])
    assert ask(uploads, b"bytes of a form", path="/gradio_api/upload")[0] == 200
    assert ask(uploads, b"no JSON")[0] == 400
    assert ask(uploads, b" " * 1_000_001)[0] == 413
    assert ask(uploads, b"[" * 200_000)[0] == 400


@pytest.mark.parametrize(
    ("on", "asked", "status"),
    [
        ("127.0.0.1", "127.0.0.1:7860", 200),
        ("127.0.0.1", "localhost:7860", 200),
        ("127.0.0.1", "[::1]:7860", 200),
        ("127.0.0.1", "evil.example:7860", 403),
        ("127.0.0.1", "127.0.0.1.evil.example", 403),
        ("127.0.0.1", "evil.example#@127.0.0.1", 403),
        ("127.0.0.1", "192.168.0.7:7860", 403),
        ("127.0.0.1", "", 403),
        ("127.0.0.1", "[", 403),
        ("0.0.0.0", "192.168.0.7:7860", 200),
        ("0.0.0.0", "evil.example:7860", 403),
    ],
)
def test_a_foreign_host_is_refused(uploads, on, asked, status):
    found = ask(uploads, method="GET", path="/", on=on, host=asked)
    assert found[0] == status and bool(found[1]) == (status == 200)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (f"http://{PAGE}", 200),
        ("http://127.0.0.1:8000", 403),
        ("http://evil.example", 403),
        ("null", 403),
    ],
)
def test_a_foreign_origin_is_refused(uploads, origin, status):
    for method in ("GET", "POST"):
        assert ask(uploads, method=method, origin=origin)[0] == status


def test_what_is_loopback():
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org", ""):
        assert not is_loopback(host)


def test_a_folder_of_uploads_may_itself_be_reached_through_a_link(uploads, tmp_path):
    os.symlink(uploads, tmp_path / "through")
    body = call({"path": f"{uploads}/a.png"})
    assert ask(tmp_path / "through", body)[0] == 200
