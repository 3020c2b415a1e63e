"""Which commit of the library runs, if that is known: it stands beside what was measured."""

import functools
import pathlib
import subprocess

_CLONE = pathlib.Path(__file__).parents[2]


@functools.cache
def commit() -> str:
    """Of the clone that this is run from, "-dirty" behind it if files differ; else "".

    An installed library may lie below a clone of something else, whose commit says nothing of it.
    """
    if not (_CLONE / ".git").exists():
        return ""
    asked = ["git", "-C", str(_CLONE), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
