"""The part of the command line that all verbs share which read a config."""

import argparse
from collections.abc import Sequence

from unified_fm.config import help
from unified_fm.config.settings import Settings

OVERRIDE = "--config."


def parser(prog: str | None, about: str | None) -> argparse.ArgumentParser:
    """A parser with the flags of a config; `about` is the help, as it is laid out."""
    made = argparse.ArgumentParser(prog, description=about)
    add(made)
    return made


def add(made: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds the flags of a config to a parser."""
    made.add_argument(
        "--config",
        required=required,
        help="FILE.py, or the name of a config of the library; :ARGUMENT",
    )
    made.add_argument(
        "--plugins",
        default="",
        help="modules, by commas, whose plugins a saved config may name",
    )
    made.epilog = help.keys()
    made.formatter_class = argparse.RawDescriptionHelpFormatter


def parse(
    made: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the changes of the config ("optimizer.lr=0.1"). Exits if there are others."""
    options, rest = made.parse_known_args(arguments)
    for text in rest:
        if not text.startswith(OVERRIDE) or "=" not in text:
            made.error(f"{text!r} is neither a flag nor {OVERRIDE}KEY=VALUE")
    return options, [text.removeprefix(OVERRIDE) for text in rest]


def load(
    made: argparse.ArgumentParser,
    options: argparse.Namespace,
    changes: Sequence[str],
    *,
    mesh: bool = True,
) -> Settings:
    """The checked settings; their compiler flags are set. Exits with status 2 and the reason if
    they cannot work. `mesh` as of `config.file.load`."""
    from unified_fm.config import file  # these need JAX, and not every verb needs a config
    from unified_fm.runtime import compiler

    modules = [name for name in options.plugins.split(",") if name]
    try:
        settings = file.load(options.config, changes, plugins=modules, mesh=mesh)
        compiler.use(settings.xla)
        return settings
    except (ValueError, TypeError) as error:
        made.exit(2, f"refused: {error}\n")
