"""The page as a process: over HTTP, and in a real browser. What is refused; who is asked: nobody.

Marked browser: needs requirements/page.txt, and the last test Debian's chromium.
"""

import contextlib
import http.client
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.inference import runs

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]


class Server:
    """A running page."""

    def __init__(self, address, log):
        self.address, self.log = address, log
        self.port = int(address.rstrip("/").rpartition(":")[2])

    def ask(self, method, path, body=None, headers=None):
        """(status, body) of a request."""
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        ) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def upload(self, name, content):
        """(status, where it lies on the server, or what was said)."""
        border = uuid.uuid4().hex
        head = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        body = f"{head}\r\n".encode() + content + f"\r\n--{border}--\r\n".encode()
        form = {"Content-Type": f"multipart/form-data; boundary={border}"}
        status, told = self.ask("POST", "/gradio_api/upload", body, form)
        return status, json.loads(told)[0] if status == 200 else told

    def call(self, name, *data, **headers):
        """(status, what the method's event stream or the refusal said)."""
        body = json.dumps({"data": data})
        kind = {"Content-Type": "application/json", **headers}
        status, told = self.ask("POST", f"/gradio_api/call/{name}", body, kind)
        if status != 200:
            return status, told
        return self.ask("GET", f"/gradio_api/call/{name}/{json.loads(told)['event_id']}")


def file(path, **more):
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


@pytest.fixture(scope="module")
def server(workdir, tmp_path_factory):
    pytest.importorskip("gradio", reason="pip install -r requirements/page.txt")
    log = tmp_path_factory.mktemp("log") / "looks"
    command = [sys.executable, ROOT / "tests/page/watched_server.py", log, "serve", "--port=0"]
    environment = os.environ | {"UNIFIED_FM_DATA": str(log.parent), "JAX_PLATFORMS": "cpu"}
    environment["TMPDIR"] = str(log.parent)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [*map(str, command), f"--run={workdir}"], stderr=subprocess.PIPE, env=environment, text=True
    )
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.match(r"(http://\S+)", line):
            break
    else:
        pytest.fail("no page: " + "".join(said))
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield Server(found[1], log)
    process.terminate()
    assert process.wait(60) == 0
    assert not list(log.parent.glob("unified_fm-page-*")), "uploads are left"


@pytest.fixture(scope="module")
def red(server):
    status, path = server.upload("red.png", runs.png(runs.picture("red", 40, 60)))
    assert status == 200
    return path


@pytest.fixture
def counter():
    """(address, the paths that were asked for) of a server that counts."""
    asked = []

    class Counting(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    with http.server.HTTPServer(("127.0.0.1", 0), Counting) as counting:
        threading.Thread(target=counting.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{counting.server_port}", asked
        counting.shutdown()


def test_methods_answer_over_http(server, red, model):
    status, told = server.call("match", file(red), "a red square")
    assert status == 200
    told = json.loads(told.rpartition("data: ")[2])[0]
    shares = {row["label"]: row["confidence"] for row in told["confidences"]}
    assert shares["fits"] == pytest.approx(
        model.match(runs.picture("red", 40, 60), "a red square"), abs=1e-3
    )
    for name, data in {
        "find": ([{"image": file(red), "caption": None}] * 2, "a red square", None, 2),
        "locate": (file(red), "a red square"),
        "fill_mask": ("a [MASK] square", file(red)),
    }.items():
        status, told = server.call(name, *data)
        assert (status, "event: complete" in told) == (200, True), told


def test_tabs_that_the_checkpoint_cannot_serve_are_absent(server):
    _, config = server.ask("GET", "/config")
    parts = json.loads(config)["components"]
    tabs = [part["props"]["label"] for part in parts if part["type"] == "tabitem"]
    assert tabs == ["Match", "Find", "Locate", "Masked words", "About"]


def test_paths_and_addresses_of_the_server_are_refused(server, red, counter, tmp_path):
    address, asked = counter
    link = Path(red).with_name("link.png")
    link.symlink_to("/etc/passwd")
    for given in (
        file("/etc/passwd"),
        file(f"{Path(red).parent}/../../../../etc/passwd"),
        file(str(link)),
        file("file:///etc/passwd"),
        file(f"{address}/a.png"),
        file(f"{address}/a.png", url=f"{address}/a.png"),
        file(red, url=f"{address}/a.png"),
        {"url": f"{address}/a.png", "meta": {"_type": "gradio.FileData"}},
    ):
        assert server.call("match", given, "a red square")[0] == 403
        gallery = [{"image": given, "caption": None}]
        assert server.call("find", gallery, "a red square", None, 2)[0] == 403
        body = json.dumps({"data": [given, "a"], "fn_index": 0, "session_hash": "x"})
        kind = {"Content-Type": "application/json"}
        for path in ("/gradio_api/queue/join", "/gradio_api/run/match"):
            assert server.ask("POST", path, body, kind)[0] == 403
    # An address where a text is expected is a text.
    assert "event: error" in server.call("match", f"{address}/a.png", "a red square")[1]
    for path in ("/etc/passwd", f"{address}/a.png"):
        for route in ("file=", "proxy=", "stream/"):
            assert server.ask("GET", f"/gradio_api/{route}{path}")[0] not in (200, 206)
    assert asked == []


def test_foreign_hosts_and_origins_are_refused(server, red):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert server.ask("GET", "/", headers=headers)[0] == 403
        assert server.call("match", file(red), "a red square", **headers)[0] == 403
    assert server.ask("GET", "/", headers={"Host": f"localhost:{server.port}"})[0] == 200


def test_bad_uploads_are_answered_with_a_sentence(server):
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    for name, content in (("a.jpg", b"<html>no image</html>"), ("bomb.png", bomb.getvalue())):
        status, path = server.upload(name, content)
        assert status == 200
        status, told = server.call("match", file(path), "a red square")
        assert status == 200 and "event: error" in told and "image" in told
        assert "Traceback" not in told and path not in told
    status, told = server.upload("large.png", b"0" * 20_000_000)
    assert status == 413 and "size" in told


def looked_up(log):
    """Whom the process of the server asked for beside this machine."""
    own = ("'127.0.0.1'", "'localhost'", "'::1'", "('127.0.0.1'", "b'127.0.0.1'", "None")
    lines = log.read_text().splitlines()
    return [line for line in lines if not line.split(" ", 1)[1].startswith(own)]


def test_a_visit_in_a_browser(server, tmp_path, model):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    (tmp_path / "red.png").write_bytes(runs.png(runs.picture("red", 40, 60)))
    foreign, errors = [], []

    def note(request):
        if not request.url.startswith((server.address, "data:", "blob:")):
            foreign.append(request.url)

    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("request", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.address)
        expect = sync_api.expect

        page.locator("input[type=file]:visible, input[type=file]").first.set_input_files(
            tmp_path / "red.png"
        )
        page.get_by_label("Text", exact=True).fill("a red square")
        page.get_by_role("button", name="Match", exact=True).click()
        fits = model.match(runs.picture("red", 40, 60), "a red square")
        better = "fits" if fits >= 0.5 else "does not fit"
        expect(page.get_by_test_id("label-output-value").first).to_have_text(better)
        shown = page.get_by_role("tabpanel").first
        expect(shown).to_contain_text(f"{100 * fits:.0f}%")

        page.get_by_role("tab", name="Locate").click()
        panel = page.get_by_role("tabpanel").filter(has=page.get_by_label("Phrase"))
        panel.locator("input[type=file]").first.set_input_files(tmp_path / "red.png")
        panel.get_by_label("Phrase").fill("a red square")
        panel.get_by_role("button", name="Locate", exact=True).click()
        picture = panel.locator("#box img")
        expect(picture).to_have_attribute("src", re.compile("file=.*png"))
        answer = page.request.get(picture.get_attribute("src"))
        pixels = np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))
        browser.close()
    box = model.locate(runs.picture("red", 40, 60), "a red square")
    drawn = np.argwhere((pixels == (255, 0, 0)).all(-1))
    assert pixels.shape == (40, 60, 3)
    assert drawn.min(0).tolist() == [round(box.y0), round(box.x0)]
    assert (foreign, errors) == ([], [])
    assert looked_up(server.log) == []
