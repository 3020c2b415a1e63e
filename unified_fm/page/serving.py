"""From a model to a page that is listened for: settings of Gradio, the guard, warm-up, a port."""

import contextlib
import importlib
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from unified_fm.page import asking, samples, tabs
from unified_fm.page.guard import Guard, is_loopback

LEAST = "6.7"  # of Gradio, as setup.cfg says; older ones let a request read files of the machine
INSTALL = 'pip install "unified_fm[page]"'
_UPLOAD_LIMIT = "10mb"


class Unserved(ValueError):
    """Why there will be no page, in a sentence."""


def library() -> Any:
    """The module gradio, told to ask nobody anything.

    Raises:
        Unserved: it is not installed, or older than `LEAST`; with the line that installs it.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        gradio = importlib.import_module("gradio")
    except ModuleNotFoundError as error:
        raise Unserved(f"the page needs {error.name}, which is not here: {INSTALL}") from error
    if _release(gradio.__version__) < _release(LEAST):
        raise Unserved(
            f"the page needs gradio {LEAST} or newer, found {gradio.__version__}, which lets a "
            f"request read files of this machine: {INSTALL}"
        )
    return gradio


def check_host(host: str, known: bool) -> None:
    """Refuses an address that others reach, unless the user said that they know.

    Raises:
        Unserved: what it would mean.
    """
    if not is_loopback(host) and not known:
        raise Unserved(
            f"--host={host} lets whoever reaches this machine use the page, without a password; "
            "--host=127.0.0.1 does not, and --i-know allows it"
        )


@contextlib.contextmanager
def application(model: Any, gr: Any, host: str, say: Any = None) -> Iterator[Guard]:
    """The ASGI application of a model's page, warm; its folder of uploads goes when it ends.

    Args:
        model: what `unified_fm.load` gives.
        gr: the module gradio, see `library`.
        host: the address that will be listened on.
        say: called with lines about the progress.
    """
    fastapi = importlib.import_module("fastapi")
    with tempfile.TemporaryDirectory(prefix="unified_fm-page-") as folder:
        uploads = Path(folder).resolve() / "uploads"
        uploads.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        say = say or (lambda line: None)
        for line in tabs.absent(model):
            say(f"no tab {line}")
        warm(model, Path(folder), say)
        page = tabs.build(model, gr, samples.scenes(uploads))
        app = gr.mount_gradio_app(
            fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
            page,
            path="/",
            server_name=host,
            max_file_size=_UPLOAD_LIMIT,
            show_error=False,
            footer_links=["api"],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            pwa=False,
            css=tabs.STYLE,
        )
        yield Guard(app, str(uploads), host)


def warm(model: Any, folder: Path, say: Any) -> None:
    """Asks everything once, so that no visitor waits for the compiler."""
    blank = folder / "blank.png"
    Image.new("RGB", (32, 32), "white").save(blank)
    calls = asking.warming(model, str(blank))
    for number, (name, call) in enumerate(calls, 1):
        began = time.monotonic()
        call()
        say(f"compiled {number}/{len(calls)}: {name}, {time.monotonic() - began:.1f} s")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        Unserved: the port is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise Unserved(f"cannot listen on {host}:{port}: {error}; try another --port") from error
    listening.listen()
    return listening


def serve(model: Any, gr: Any, listening: socket.socket) -> None:
    """Shows the page until the process is told to end; then leaves by SystemExit."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn passes on the signal that ended it, which by itself would leave the uploads there.
        signal.signal(number, _end)
    uvicorn = importlib.import_module("uvicorn")
    host, port = listening.getsockname()[:2]
    with application(model, gr, host, say=_say) as guard:
        shown = f"[{host}]" if ":" in host else host
        _say(f"http://{shown}:{port}/ (Ctrl-C ends it)")
        config = uvicorn.Config(
            guard, log_level="warning", proxy_headers=False, server_header=False, ws="none"
        )
        uvicorn.Server(config).run(sockets=[listening])


def _release(version: str) -> list[int]:
    """The first two numbers of a version."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def _end(number: int, frame: Any) -> NoReturn:
    sys.exit(0)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
