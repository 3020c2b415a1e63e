"""Paths in buckets, `gs://BUCKET/...` and `s3://BUCKET/...`, beside local ones.

Every function takes both: a local path goes to the operating system as it always did, all others go
through fsspec. What is imported, opened and connected belongs to one process and is made when it is
first wanted there; a forked process begins anew (fsspec does not survive a fork).

Nothing that is read is kept. What looking and listing have told of files (size, version) is
believed for a minute: so a folder of many files is opened with a request for each thousand.
"""

import contextlib
import fnmatch
import glob as local_glob
import hashlib
import os
import pathlib
import posixpath
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

_EXTRAS = {"gs": "gcs", "s3": "s3"}
_COPY = {"gs": "gcloud storage cp -r {} {}", "s3": "aws s3 cp --recursive {} {}"}
_BELIEVED = 60.0  # seconds for which a listing is
_MOST_TOLD = 1 << 18  # files of which something is remembered
_CUT = re.compile(r"(.+):((?!//)(?:\w+://)?[^:]*)", re.DOTALL)
_PROTOCOL = re.compile(r"[A-Za-z][\w+.-]*://")  # "folder/gs://a" is a strange local path
_SIGNS = re.compile(r"[*?\[]")


class About(NamedTuple):
    """A file as it is now.

    Attributes:
        size: in bytes.
        version: a number that another content has not: its time of change in nanoseconds, or in a
            bucket a hash of what the bucket calls it (generation, entity tag, time).
    """

    size: int
    version: int


def holds(path: Any) -> bool:
    """Whether a path is in a bucket, and not local."""
    return _PROTOCOL.match(os.fspath(path)) is not None


def path(text: str | os.PathLike) -> Any:
    """A `pathlib.Path`, or an `epath.Path` of what is in a bucket."""
    if not holds(text):
        return pathlib.Path(text)
    check(text)
    from etils import epath  # half a second that local files need not wait for

    return epath.Path(text)


def check(path: Any) -> None:
    """Makes sure that what reads such a path is there; a local one always is.

    Raises:
        ValueError: another protocol; the message has those that are possible.
        ModuleNotFoundError: its package is not installed; the message has the command.
    """
    if holds(path):
        _system(path)


def refuse(path: Any, what: str, protocols: tuple[str, ...] = ()) -> None:
    """Refuses a path in a bucket where `what` cannot read it: of `protocols` it can.

    Raises:
        ValueError: with the command that copies it.
    """
    protocol = os.fspath(path).partition("://")[0]
    if not holds(path) or protocol in protocols:
        return
    ways = " and ".join(["local files", *(f"{each}://" for each in protocols)])
    copy = _COPY.get(protocol, "").format(os.fspath(path), "DIR")
    raise ValueError(
        f"{what} reads {ways} only, not {os.fspath(path)}: copy it first"
        + (f" ({copy}), or mount the bucket" if copy else "")
    )


def refuse_output(path: str | os.PathLike) -> None:
    """Refuses a path in a bucket where only local files are written.

    Raises:
        ValueError: with the command that copies what was written.
    """
    if holds(path):
        protocol = os.fspath(path).partition("://")[0]
        copy = _COPY.get(protocol, "").format("DIR", os.fspath(path))
        raise ValueError(
            f"{os.fspath(path)} is in a bucket, and this is written to local files only: write it"
            " to a folder DIR, and copy that" + (f" ({copy})" if copy else "")
        )


def kind(path: str | os.PathLike) -> str:
    """ "file", "directory", or "" where nothing is.

    Raises:
        OSError: the bucket could not be asked: no right, no network.
    """
    if not holds(path):
        return "file" if os.path.isfile(path) else "directory" if os.path.isdir(path) else ""
    try:
        with as_os_error(path):
            info = _system(path).info(_bare(path))
    except FileNotFoundError:
        return ""
    _remember(path, [info])
    return "directory" if info["type"] == "directory" else "file"


def isfile(path: str | os.PathLike) -> bool:
    """As `os.path.isfile`. Raises as `kind`."""
    return kind(path) == "file" if holds(path) else os.path.isfile(path)


def isdir(path: str | os.PathLike) -> bool:
    """As `os.path.isdir`. Raises as `kind`."""
    return kind(path) == "directory" if holds(path) else os.path.isdir(path)


def exists(path: str | os.PathLike) -> bool:
    """As `os.path.exists`. Raises as `kind`."""
    return kind(path) != "" if holds(path) else os.path.exists(path)


def absolute(path: str | os.PathLike) -> str:
    """As `os.path.abspath`."""
    if not holds(path):
        return os.path.abspath(path)
    protocol, sign, rest = os.fspath(path).partition("://")
    return protocol + sign + posixpath.normpath(rest)


def inside(folder: str | os.PathLike, name: str) -> str | None:
    """The absolute path of a name below a folder; None where it leads out of it."""
    root, found = absolute(folder), absolute(os.path.join(folder, name))
    return found if found == root or found.startswith(root.rstrip("/") + "/") else None


def cut(text: str) -> tuple[str, str]:
    """(before, behind) the last ":" that is no protocol's; behind is "" where there is none."""
    match = _CUT.fullmatch(text)
    return (match[1], match[2]) if match else (text, "")


def names(folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """(files, folders) directly in a folder, by name, sorted.

    Raises:
        OSError: there is no such folder, or it cannot be listed.
    """
    if not holds(folder):
        with os.scandir(folder) as entries:
            each = sorted((entry.name, entry.is_dir()) for entry in entries)
        return [name for name, is_dir in each if not is_dir], [n for n, is_dir in each if is_dir]
    with as_os_error(folder):
        entries = _system(folder).ls(_bare(folder), detail=True)
    files, folders = [], []
    for info in entries:
        if info["name"].strip("/") != _bare(folder):  # some buckets list the folder itself
            name = info["name"].rstrip("/").rsplit("/", 1)[-1]
            (folders if info["type"] == "directory" else files).append(name)
    _remember(folder, entries)
    return sorted(files), sorted(folders)


def below(folder: str | os.PathLike) -> list[str]:
    """The paths of all files in a folder and in those below it, but for hidden ones; sorted."""
    if not holds(folder):
        found = []
        for place, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [os.path.join(place, name) for name in files if not name.startswith(".")]
        return sorted(found)
    with as_os_error(folder):
        entries = list(_system(folder).find(_bare(folder), detail=True).values())
    _remember(folder, entries)
    root = len(_bare(folder)) + 1
    paths = (info["name"].lstrip("/") for info in entries)
    shown = (path for path in paths if not re.search(r"(^|/)\.", path[root:]))
    return sorted(_named(folder, path) for path in shown)


def glob(pattern: str) -> list[str]:
    """As `glob.glob`, sorted."""
    if not holds(pattern):
        return sorted(local_glob.glob(pattern))
    folder, name = pattern.rsplit("/", 1)
    if not _SIGNS.search(folder):  # the usual case: its listing tells the sizes, too
        try:
            files, folders = names(folder)
        except FileNotFoundError:
            return []
        there = sorted(each for each in [*files, *folders] if each[0] != "." or name[0] == ".")
        return [f"{folder}/{each}" for each in there if fnmatch.fnmatchcase(each, name)]
    with as_os_error(pattern):
        return sorted(_named(pattern, path) for path in _system(pattern).glob(_bare(pattern)))


def about(path: str | os.PathLike, *, now: bool = False) -> About:
    """Size and version of a file; `now`: ask, whatever was told a moment ago.

    Raises:
        FileNotFoundError: there is none.
        OSError: the bucket could not be asked.
    """
    if not holds(path):
        found = os.stat(path)
        return About(found.st_size, found.st_mtime_ns)
    told = _told.get(os.fspath(path))
    if told is not None and not now and time.monotonic() - told[0] < _BELIEVED:
        return told[1]
    with as_os_error(path):
        info = _system(path).info(_bare(path))
    if info["type"] == "directory":
        raise IsADirectoryError(f"{os.fspath(path)} is a folder")
    return _about(info)


def read(path: str | os.PathLike, start: int = 0, end: int | None = None) -> bytes:
    """The bytes of a file from `start` to `end` (None: the last); fewer where it ends before.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    if not holds(path):
        with open(path, "rb") as stream:
            stream.seek(start)
            return stream.read(-1 if end is None else end - start)
    if end is not None and end <= start:
        return b""
    try:
        with as_os_error(path):
            return _system(path).cat_file(_bare(path), start=start or None, end=end)
    except FileNotFoundError:
        raise
    except OSError:
        if about(path, now=True).size <= start:
            return b""  # to some buckets an error: they have no such range
        raise


def open_binary(path: str | os.PathLike, *, ahead: int = 0) -> Any:
    """A file to read from; in a bucket `ahead` bytes are read beyond what is wanted.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    if not holds(path):
        return open(path, "rb")
    how = {"cache_type": "readahead", "block_size": ahead} if ahead else {"cache_type": "none"}
    with as_os_error(path):
        return _system(path).open(_bare(path), "rb", **how)


def upload(file: str | os.PathLike, path: str | os.PathLike) -> None:
    """Copies a local file to a path in a bucket. Raises OSError: it cannot be written."""
    with as_os_error(path):
        _system(path).put_file(os.fspath(file), _bare(path))


def cache_folder(kind: str, place: str) -> str:
    """The folder in the user's cache for what cannot be kept beside the data of `place`."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "unified_fm", kind, name_of(place))


def name_of(place: str) -> str:
    """A name for what belongs to a place, from its path."""
    place = place if holds(place) else os.path.realpath(place)
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def _system(path: Any) -> Any:
    """fsspec's object for the protocol, of this process."""
    import fsspec

    protocol = os.fspath(path).partition("://")[0]
    if protocol not in _EXTRAS:
        possible = ", ".join(f"{each}://" for each in _EXTRAS)
        raise ValueError(f"{os.fspath(path)}: the protocol {protocol}:// is not one of {possible}")
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{os.fspath(path)}: paths of {protocol}:// need a package that is not installed:"
            f' pip install "unified_fm[{_EXTRAS[protocol]}]" ({error})'
        ) from error


def _bare(path: Any) -> str:
    """A path as fsspec's objects take it, without protocol."""
    return os.fspath(path).partition("://")[2].rstrip("/")


def _named(like: Any, bare: str) -> str:
    return f"{os.fspath(like).partition('://')[0]}://{bare.lstrip('/')}"


def _about(info: dict[str, Any]) -> About:
    keys = ("generation", "ETag", "etag", "mtime", "updated", "LastModified", "created")
    version = next((str(info[key]) for key in keys if info.get(key)), "")
    number = int.from_bytes(hashlib.sha256(version.encode()).digest()[:7], "big")
    return About(int(info["size"]), number)


_told: dict[str, tuple[float, About]] = {}  # {path: when, what}


def _remember(like: Any, entries: list[dict[str, Any]]) -> None:
    if len(_told) + len(entries) > _MOST_TOLD:
        _told.clear()
    at = time.monotonic()
    for info in entries[:_MOST_TOLD]:
        if info["type"] != "directory":
            _told[_named(like, info["name"])] = at, _about(info)


@contextlib.contextmanager
def as_os_error(path: Any) -> Iterator[None]:
    """What packages for buckets raise (no credentials, no answer) as OSError, with the path."""
    try:
        yield
    except (OSError, ModuleNotFoundError, ValueError):
        raise
    except Exception as error:
        raise OSError(f"{os.fspath(path)}: {type(error).__name__}: {error}") from error
