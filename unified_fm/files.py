"""Files that are written whole or not at all: a reader finds the old one or the new one."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any


def write_whole(path: Any, content: str | bytes, *, durable: bool = False) -> None:
    """Writes a file of this content in place of what is there.

    Args:
        path: a string, a `pathlib.Path`, or an `epath.Path`, which may be in a bucket.
        content: bytes, or a text, which is written as UTF-8.
        durable: wait until the disk has it: for what must outlive a power cut.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    with whole(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def whole(path: Any, *, durable: bool = False) -> Iterator[Any]:
    """Gives a path beside `path` to write to, and moves what lies there to `path` at the end.

    If the body raises, what it has written is removed. Arguments as for `write_whole`.
    """
    path = path if hasattr(path, "write_bytes") else pathlib.Path(path)
    # Two that write the same file, maybe on two hosts, do not write into each other's.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if durable and "://" not in os.fspath(path):
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
