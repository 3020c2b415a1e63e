"""Prints what a config comes to, before it is run.

unified-fm show config --config=quickstart             every setting, as it would be overridden
unified-fm show batch --config=quickstart --out=batch.png    shapes, and a picture of some rows
unified-fm show params --config=xfm_base               shapes, counts and rules of parameters
"""

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from unified_fm.commands import _outputs, _settings
from unified_fm.config import chosen, durations
from unified_fm.config.settings import Settings
from unified_fm.report.report import flat


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    config = commands.add_parser("config", help="the resolved settings")
    config.add_argument("--json", action="store_true", help="as the config.json of a run")
    batch = commands.add_parser("batch", help="one batch of every stream")
    batch.add_argument(
        "--out", type=_outputs.local, default=Path("batch.png"), help=".png or .svg to write"
    )
    batch.add_argument("--rows", type=int, default=6, help="of each stream, in the picture")
    params = commands.add_parser("params", help="the parameters; neither data nor weights are read")
    for command in (config, batch, params):
        _settings.add(command)
    options, changes = _settings.parse(parser, arguments)
    settings = _settings.load(parser, options, changes)
    if options.what == "config":
        print(json.dumps(settings.plain(), indent=1) if options.json else config_text(settings))
    elif options.what == "params":
        print(params_text(settings))
    else:
        try:
            print(batch_text(settings, options.out, options.rows))
        except (ValueError, OSError) as error:
            parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


def config_text(settings: Settings) -> str:
    """One line for each setting: `optimizer.lr = 0.003`, which `--config.optimizer.lr=...` sets."""
    said = {name: f"  ({text})" for name, text in durations.said(settings).items()}
    lines = flat(settings.plain())
    return "\n".join(f"{name} = {value!r}{said.get(name, '')}" for name, value in lines)


def params_text(settings: Settings) -> str:
    """A line for each parameter with the rules that it got, and the counts."""
    from unified_fm.commands import _parameters

    return _parameters.table(settings)


def batch_text(settings: Settings, out: Path, rows: int = 6) -> str:
    """The shapes and ranges of one batch of every stream, and a picture of its first rows in `out`.

    Raises:
        ValueError, OSError: the data cannot be read, or the picture not written.
    """
    from unified_fm import main as command
    from unified_fm import setup
    from unified_fm.commands import _batch

    if out.suffix not in (".png", ".svg"):
        raise ValueError(f"--out={out} ends in {out.suffix!r}; possible: .png, .svg")
    command.prepare_data(settings)
    ready = setup.prepare(chosen.without_teachers(settings))
    with contextlib.closing(ready.open_streams()) as streams:
        batches = next(streams)
    streams = ready.program.streams
    seen = {name: _batch.counted(b, streams[name].groups or 1) for name, b in batches.items()}
    _batch.save_picture(seen, ready.tokenizer, out, rows)
    return f"{_batch.table(batches)}\nwrote {out}"
