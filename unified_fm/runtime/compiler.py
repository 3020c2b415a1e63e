"""Gives the compiler the flags of a preset, before it starts."""

import logging
import os

from jax._src import xla_bridge

from unified_fm.config import xla

_log = logging.getLogger(__name__)


def use(name: str) -> None:
    """Puts the flags of a preset into the environment, beside those that are there; "" is none.

    Args:
        name: see `config.xla`.

    Raises:
        ValueError: an unknown name, or a process whose devices are in use already: flags are read
            once, when they start.
    """
    xla.check(name)
    if not name:
        return
    variable, added, kept = xla.split(name, os.environ)
    # JAX has no public name for this.
    if added and xla_bridge.backends_are_initialized():
        raise ValueError(
            f"config.xla is {name!r}, but the devices of this process are in use already, and "
            f"flags are read when they start. Set {variable} before, or start another process"
        )
    if added:
        os.environ[variable] = " ".join([os.environ.get(variable, ""), *added]).strip()
        _log.info("xla=%s: %s has %s", name, variable, " ".join(added))
    if kept:
        _log.info("xla=%s: as the environment says, not the preset: %s", name, " ".join(kept))
