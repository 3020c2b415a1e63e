"""Gives the compiler the flags of a preset, before it starts, and keeps what it has made."""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from jax._src import xla_bridge

from unified_fm.config import xla

_log = logging.getLogger(__name__)


def make_sound() -> None:
    """Puts the flags without which a compiler fails into the environment; see `config.xla`.

    Where the devices are in use already it is too late, and on a TPU the log says so.
    """
    variable, added, _ = xla.split("", os.environ)
    if not added:
        return
    if not xla_bridge.backends_are_initialized():  # JAX has no public name for this
        _add(variable, added)
    elif jax.default_backend() == "tpu":
        wanted = " ".join(added)
        _log.warning("without %s=%r in the environment libtpu may crash", variable, wanted)


def use(name: str) -> None:
    """Puts the flags of a preset into the environment, beside those that are there; "" is none.

    Those of `make_sound` are there with any of them.

    Args:
        name: see `config.xla`.

    Raises:
        ValueError: an unknown name, or a process whose devices are in use already: flags are read
            once, when they start.
    """
    xla.check(name)
    make_sound()
    if not name:
        return
    variable, added, kept = xla.split(name, os.environ)
    if added and xla_bridge.backends_are_initialized():
        raise ValueError(
            f"config.xla is {name!r}, but the devices of this process are in use already, and "
            f"flags are read when they start. Set {variable} before, or start another process"
        )
    if added:
        _add(variable, added)
        _log.info("xla=%s: %s has %s", name, variable, " ".join(added))
    if kept:
        _log.info("xla=%s: as the environment says, not the preset: %s", name, " ".join(kept))


def _add(variable: str, flags: Sequence[str]) -> None:
    os.environ[variable] = " ".join([os.environ.get(variable, ""), *flags]).strip()


def keep_programs() -> None:
    """Keeps compiled programs between runs, unless JAX was told otherwise or there is no home."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    with contextlib.suppress(RuntimeError, OSError):  # no home, or one that is read-only
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "unified_fm" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
