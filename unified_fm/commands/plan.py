"""Plans a run on devices that are not here: what its step needs, sends and takes.

    unified-fm plan --config=xfm_base:chips=256 --topology=v5e:16x16 --config.mesh.fsdp=8
    unified-fm plan --config=ufm_base --topology=h100:8x4 --remat=full

The step of the config is compiled ahead of time for the topology and read: bytes of a device
against the chip's memory, what devices send each other and for what, FLOPs, and the time of a step
by the peaks of the chip. No data, tokenizer, teacher's weights or device is needed; the compiler of
the chips is (--compiler=auto takes XLA's CPU compiler without it, and says how to get it).

A TPU topology has the sizes of a slice (v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:16x16), a GPU's the
GPUs of a host and the hosts (a100:8x1, h100:8x4, h200:8x4); cpu:8 are simulated devices.

A batch that does not fit is refused in the compiler's words, and smaller ones are tried, each half
of the one before. Exit status: 0; 2 where the configured batch does not fit or the mesh cannot be
made; 1 where the compiler fails otherwise.

A table of plans that were written with --json:

    unified-fm plan --table plans/*.json
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from unified_fm import files
from unified_fm.commands import _outputs, _settings
from unified_fm.models.config import CHOICES


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line, plans and prints; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--table"]:
        return _table(given[1:], prog)
    parser = _settings.parser(prog, __doc__)
    parser.add_argument("--topology", required=True, help="CHIP:SIZExSIZE")
    parser.add_argument("--compiler", default="auto", help="auto, tpu, gpu or cpu")
    parser.add_argument("--remat", choices=CHOICES["remat"], help="of all stacks of the model")
    parser.add_argument("--no-search", action="store_true", help="try no smaller batch")
    parser.add_argument("--largest", type=int, default=12, help="collectives to print")
    parser.add_argument(
        "--json", type=_outputs.local, metavar="FILE", help="write the plan into a file, too"
    )
    options, changes = _settings.parse(parser, given)
    if options.json is not None:
        _make_folder(parser, options.json)

    from unified_fm.planning import plan, text, topologies, variants

    try:
        topology = topologies.parse(options.topology)
        compiler = topologies.compiler(topology, options.compiler)
    except ValueError as error:
        parser.exit(2, f"refused: {error}\n")
    topologies.prepare(topology.count)
    logging.getLogger("jax").setLevel(logging.ERROR)
    settings = _settings.load(parser, options, changes, mesh=False)  # `plan.make` looks at it
    _say_compiler(topologies, topology, compiler)
    try:
        settings = variants.for_platform(settings, topology.chip.platform, options.remat)
        made = plan.make(
            settings, topology, compiler=compiler, search=not options.no_search, say=_Clock()
        )
    except (ValueError, TypeError) as error:
        parser.exit(2, f"refused: {error}\n")
    print(text.lines(made, options.largest))
    if options.json is not None:
        remat = str(settings.model.get("remat", "none"))
        record = text.record(options.config, remat, made)
        files.write_whole(options.json, json.dumps(record, indent=1))
    return 0 if made.plan is not None and not made.refused else 2


def _table(paths: Sequence[str], prog: str | None) -> int:
    from unified_fm.planning import text

    try:
        print(text.table([Path(path).read_text() for path in paths]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{prog or 'plan'}: no plans that --json has written: {error!r}", file=sys.stderr)
        return 2
    return 0


def _make_folder(parser: argparse.ArgumentParser, path: Path) -> None:
    """The folder of a file; what cannot be written is refused before minutes of compiling."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        parser.exit(2, f"refused: --json={path} cannot be written: {error}\n")


def _say_compiler(topologies, topology, compiler: str) -> None:
    own = {"tpu": "tpu", "cuda": "gpu", "cpu": "cpu"}[topology.chip.platform]
    if compiler != own and not topologies.installed(own):
        print(
            f"the compiler of {topology.chip.name} is not installed, so XLA's CPU compiler stands "
            f"in for it; get it by\n  {topologies.install(own)}",
            file=sys.stderr,
        )


class _Clock:
    """Writes lines on standard error, with the seconds since it was made."""

    def __init__(self):
        self._started = time.monotonic()

    def __call__(self, line: str) -> None:
        passed = time.monotonic() - self._started
        print(f"[{passed:6.1f} s] {line}", file=sys.stderr, flush=True)
