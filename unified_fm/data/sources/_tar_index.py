"""Where the samples of a tar shard lie: a small file, trusted as little as the shard itself.

An index counts for a shard of the same size and time of change; where only the time is another one
(a copy), its first and last 64 kB must hash to the same. It is a record of `data.records`: nothing
in it is executed, and no place in it is believed without the header that the shard has there.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unified_fm import buckets, files
from unified_fm.data import official, records
from unified_fm.data.sources import _tar
from unified_fm.data.sources._kept import Stamped

FORMAT = 1
_ENDS = 1 << 16  # bytes at both ends that tell one file from another
_KEY = re.compile(r"((?:.*/)?[^/.][^/.]*)\.([^/]+)")


class Samples(NamedTuple):
    """The samples of a shard: those of key k are the parts first[k] to first[k + 1].

    Attributes:
        keys: what the names of a sample's parts have in common.
        endings: what names end in.
        first: i32[samples + 1].
        ending: i32[parts], place in `endings`.
        offset, size: i64[parts], in bytes.
        of_size, of_time: the shard's, when it was read through.
        identity: hash of its ends.
        fault: why there are no more of them; "" where the shard is whole.
    """

    keys: Sequence[str]
    endings: Sequence[str]
    first: np.ndarray
    ending: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    of_size: int
    of_time: int
    identity: str
    fault: str


def find_samples(file: Stamped) -> Samples:
    """Reads a shard through.

    Raises:
        As `_tar.read`.
    """
    path = file.path
    contents = _tar.read(path)
    groups: dict[str, dict[str, _tar.Member]] = {}
    for member in contents.members:
        match = _KEY.fullmatch(member.name.removeprefix("./"))
        if match is None or match[1].startswith("__MACOSX/"):
            continue  # a name without an ending, or one that begins with a dot
        parts = groups.setdefault(match[1], {})
        if match[2].lower() in parts:
            raise official.WrongFile(f"{path} has two members {member.name!r}")
        parts[match[2].lower()] = member
    if contents.fault and len(groups) > 1:  # of the last sample some members may be lost
        usual = set(next(iter(groups.values())))
        if set(groups[(last := next(reversed(groups)))]) != usual:
            del groups[last]
    endings = sorted({ending for parts in groups.values() for ending in parts})
    places = {ending: k for k, ending in enumerate(endings)}
    rows = [
        (places[ending], member.offset, member.size)
        for parts in groups.values()
        for ending, member in parts.items()
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3)
    first = np.concatenate([[0], np.cumsum([len(parts) for parts in groups.values()])])
    return Samples(
        list(groups),
        endings,
        first.astype(np.int32),
        columns[:, 0].astype(np.int32),
        columns[:, 1],
        columns[:, 2],
        file.size,
        file.changed,
        identity(path),
        contents.fault,
    )


def identity(path: str) -> str:
    """A hash of the ends of a file and its size."""
    size = buckets.about(path).size
    total = hashlib.sha256(str(size).encode())
    total.update(buckets.read(path, 0, _ENDS))
    total.update(buckets.read(path, max(0, size - _ENDS)))
    return total.hexdigest()[:32]


def load(path: str, file: Stamped) -> Samples | None:
    """The index of a shard; None where there is none, it is damaged, or of another content."""
    try:
        found = records.decode(buckets.read(path))
        if found["format"] != FORMAT:
            return None
        samples = Samples(*(found[name] for name in Samples._fields))
        if samples.of_size != file.size or not _sound(samples):
            return None
        moved = samples.of_time != file.changed
        return None if moved and samples.identity != identity(file.path) else samples
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _sound(samples: Samples) -> bool:
    """Whether all places lie in the shard."""
    parts, size = len(samples.offset), samples.of_size
    names = [*samples.keys, *samples.endings]
    return bool(
        all(isinstance(name, str) for name in names)
        and len(samples.first) == len(samples.keys) + 1
        and samples.first[0] == 0
        and samples.first[-1] == parts
        and (np.diff(samples.first) > 0).all()
        and len(samples.size) == len(samples.ending) == parts
        and (samples.ending >= 0).all()
        and (samples.ending < len(samples.endings)).all()
        and (samples.offset >= _tar.BLOCK).all()
        and (samples.size >= 0).all()
        and (samples.size <= size).all()
        and (samples.offset <= size - samples.size).all()
    )


def save(path: str, samples: Samples) -> OSError | None:
    """Writes an index, whole or not at all; returns why it could not be written."""
    return write(path, records.encode({"format": FORMAT, **samples._asdict()}))


def write(path: str, content: bytes) -> OSError | None:
    """Writes a file, whole or not at all; returns why it could not be written."""
    try:
        files.write_whole(buckets.path(path), content)
    except OSError as error:
        return error
    return None
