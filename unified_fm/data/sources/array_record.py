"""`array_record:STEM`: shards written by `tools/prepare_data.py` or `data.records.write_shards`.

    array_record:corpus/text-train          corpus/text-train-00000-of-00004.array_record, ...
    array_record:corpus/text-*              a glob pattern
    array_record:corpus/one.array_record    one file

Each record is one example in the format of `data/records.py`: not pickle, and not TFDS's protos
(those are read by `tfds:`). A shard that cannot be opened, or that the others' names promise but
that is missing, is counted and named in the log, and the run goes on without it; with `max_skip=0`
in the stream's config it stops. Each record carries a checksum: a damaged one is skipped alone.
"""

import bisect
import itertools
from typing import Any

from array_record.python import array_record_module

from unified_fm.data import records
from unified_fm.data.skips import Skip


class Source:
    """Random access to the examples of all shards; see the module for the format."""

    def __init__(self, pattern: str):
        """Opens the shards.

        Raises:
            FileNotFoundError: no shard matches.
            ValueError: none of those that match can be opened.
        """
        paths, missing = records.find_shards(pattern)
        self.problems = [("missing shard", path) for path in missing]
        self._paths, self._readers, counts = [], [], []
        for path in paths:
            reader = array_record_module.ArrayRecordReader(path, options="readahead_buffer_size:0")
            if reader.ok() and reader.num_records():
                self._paths.append(path)
                self._readers.append(reader)
                counts.append(reader.num_records())
            else:
                self.problems.append(("unreadable shard", path))
        if not counts:
            raise ValueError(
                f"array_record:{pattern}: none of {len(paths)} shards can be read"
                f" (empty, cut off, or not ArrayRecord): {', '.join(paths[:3])}"
            )
        self._ends = list(itertools.accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a damaged record."""
        shard = bisect.bisect_right(self._ends, index)
        position = index - (self._ends[shard - 1] if shard else 0)
        try:
            return records.decode(self._readers[shard].read([position])[0])
        except (RuntimeError, records.CorruptRecord, IndexError) as error:
            where = f"{self._paths[shard]}, record {position}"
            raise Skip("damaged record", f"{where}: {error}") from error
