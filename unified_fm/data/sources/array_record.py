"""`array_record:STEM`: shards written by `unified-fm data convert` or `data.records.write_shards`.

    array_record:corpus/text-train          corpus/text-train-00000-of-00004.array_record, ...
    array_record:corpus/text-*              a glob pattern
    array_record:corpus/one.array_record    one file
    array_record:STEM?missing=allow         go on although a shard is not there

Each record is one example in the format of `data/records.py`: not pickle, and not TFDS's protos
(those are read by `tfds:`). A shard that the others' `-of-` number promises must be there: else the
source is refused, unless `?missing=allow` stands behind it. One that is there but cannot be read
(cut off, not ArrayRecord) counts as the records of an average shard: the run goes on without it if
the stream's `max_skip` allows so many, and it is named in the log; `max_skip=0` allows none. Each
record carries a checksum: a damaged one is skipped alone. Files are opened when they are wanted,
and a limited number stays open. The
names of the classes are those in the manifest that `unified-fm data convert` has left beside them.
"""

from typing import Any

from unified_fm import buckets
from unified_fm.data import records, shards
from unified_fm.data.prepare import manifest
from unified_fm.data.sections import Sections
from unified_fm.data.skips import Skip
from unified_fm.data.sources import base

_ALLOW = "?missing=allow"
_NAMED = 3  # files named in a message


class Source(base.Source):
    """Random access to the examples of all shards; see the module for the format.

    Attributes:
        class_names: as the manifest beside the shards has them.
        problems: (reason, file) of the shards that are left out.
        lost: records that were in the unreadable shards, if they were like the others.
    """

    def __init__(self, argument: str):
        """Finds the shards and counts their records.

        Raises:
            FileNotFoundError: no shard matches, or one is missing and that is not allowed.
            ValueError: none of those that match can be read.
            OutOfDescriptors: the process may not open another file.
        """
        pattern = argument.removesuffix(_ALLOW)
        buckets.refuse(pattern, f"array_record:{pattern}: the reader of ArrayRecord", ("gs",))
        paths, missing = records.find_shards(pattern)
        if missing and pattern == argument:
            raise FileNotFoundError(
                f"array_record:{argument}: {len(missing)} of {len(paths) + len(missing)} shards are"
                f" not there: {_first(missing)}. Bring them back, or read the others only, with"
                f" array_record:{argument}{_ALLOW}"
            )
        self.problems = [("missing shard", path) for path in missing]
        counted = shards.count_records(paths)
        self._shards = [shard for shard in counted if isinstance(shard, shards.Shard)]
        faults = [shard for shard in counted if isinstance(shard, shards.UnreadableShard)]
        self.problems += [("unreadable shard", str(fault)) for fault in faults]
        self._sections = Sections(shard.records for shard in self._shards)
        if not len(self._sections):
            raise ValueError(
                f"array_record:{argument}: none of {len(paths)} shards can be read"
                f" (empty, cut off, or not ArrayRecord): {_first([*map(str, faults), *paths])}"
            )
        self.lost = round(len(faults) * len(self) / len(self._shards))
        beside = manifest.read(buckets.path(f"{pattern}.manifest.json"))
        self.class_names = tuple(beside.get("class_names", ())) if beside else ()

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a damaged record, or one whose shard cannot be read any more."""
        shard, position = self._locate(index)
        try:
            record = shards.READERS.read(shard, position)
            return records.decode(record)
        except shards.ChangedShard:
            raise
        except shards.UnreadableShard as error:
            raise Skip("unreadable shard", str(error)) from error
        except (RuntimeError, records.CorruptRecord, IndexError) as error:
            raise Skip("damaged record", str(error)) from error

    def place(self, index: int) -> str:
        """The file and the place in it."""
        shard, position = self._locate(index)
        return f"{shard.path}, its record {position}"

    def _locate(self, index: int) -> tuple[shards.Shard, int]:
        number, position = self._sections.locate(index)
        return self._shards[number], position


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
