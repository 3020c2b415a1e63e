"""How long programs took to compile on this machine, so that who waits knows for how long."""

import contextlib
import hashlib
import json
import logging
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

import unified_fm
from unified_fm import files
from unified_fm.runtime import heap

_log = logging.getLogger(__name__)
_NAME, _MOST = "unified_fm_times.json", 200  # programs that are remembered


def compiled(
    lower: Callable[[], Any], program: object, params: Any, stacks: Mapping[str, Any]
) -> Any:
    """Compiles a program, and says before how long that usually takes, and after how long it took.

    Args:
        lower: gives the program, traced.
        program: what it is made of beside `params`, as far as the time depends on it.
        params: its parameters or their shapes.
        stacks: {name: its config} of the model's stacks of layers, for people.
    """
    leaves = jax.tree.leaves(params)
    name = key(program, [(leaf.shape, leaf.dtype) for leaf in leaves])
    usually = expected(name)
    layers = ", ".join(f"{stack} {config.layers} layers" for stack, config in stacks.items())
    _log.info(
        "compiling the step%s%s",
        f" ({layers})" if layers else "",
        "" if usually is None else f"; usually {max(usually, 1):.0f} s",
    )
    started = time.monotonic()
    made = lower().compile()
    seconds = time.monotonic() - started
    heap.give_back()
    record(name, seconds)
    count = sum(leaf.size for leaf in leaves)
    _log.info("%s parameters; compiled in %.1f s", f"{count:,}", seconds)
    return made


def key(*parts: object) -> str:
    """The name of a program that is compiled from these, on the devices that are here."""
    versions = (unified_fm.__version__, jax.__version__)
    described = (*versions, jax.default_backend(), jax.device_count(), *parts)
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def expected(key: str) -> float | None:
    """Seconds that it took the last time that it was not read from the cache; None: unknown."""
    return _read().get(key)


def record(key: str, seconds: float) -> None:
    """Remembers a time, unless it is so short that the program came from the cache."""
    folder, known = _folder(), _read()
    if folder is None or seconds < known.get(key, 0.0) / 2:
        return
    known.pop(key, None)
    kept = dict([*known.items(), (key, round(seconds, 1))][-_MOST:])
    with contextlib.suppress(OSError):  # a full or read-only disk: it is only a courtesy
        files.write_whole(folder / _NAME, json.dumps(kept))


def _read() -> dict[str, float]:
    folder = _folder()
    if folder is None:
        return {}
    try:
        told = json.loads((folder / _NAME).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(told, dict):
        return {}
    return {key: float(s) for key, s in told.items() if isinstance(s, float | int)}


def _folder() -> pathlib.Path | None:
    """Where JAX keeps compiled programs; None if nowhere, or in a bucket."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    return pathlib.Path(folder) if folder and "://" not in folder else None
