"""A web page that asks a checkpoint, for this machine only.

unified-fm serve --run=runs/quickstart
unified-fm serve --run=runs/quickstart --port=8000

Needs the extra `page` (pip install "unified_fm[page]"). The page has a tab for each thing that the
checkpoint can do: match, find, locate, masked words, ask, describe. Everything is compiled before
its address is printed. It listens on 127.0.0.1; nothing is sent elsewhere, and uploads are deleted
at the end. Images of at most 10 MB.

Exit status 2: there is no page (no such run, Gradio is missing or old, the port is taken).
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from unified_fm.inference.loading import load
from unified_fm.page import serving
from unified_fm.runtime import compiler


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line and serves until the end; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", required=True, help="workdir, RUN/checkpoints/STEP, or an exported folder")
    add("--port", type=int, default=7860, help="to listen on; 0 is any free one (7860)")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--i-know", action="store_true", help="allow a --host that other machines reach")
    add("--plugins", default="", help="modules, by commas, whose plugins the run may name")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    compiler.keep_programs()
    try:
        # What costs nothing is looked at before the model is loaded.
        serving.check_host(options.host, options.i_know)
        gradio = serving.library()
        with serving.listen(options.host, options.port) as listening:
            plugins = [name for name in options.plugins.split(",") if name]
            serving.serve(load(options.run, plugins=plugins), gradio, listening)
    except (ValueError, TypeError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
