"""`parquet:FILE`: the rows of Parquet files; FILE may be a folder (its *.parquet) or a pattern.

    parquet:my/train-*.parquet
    parquet:laion/{00000..00127}.parquet?text=TEXT@laion/images

Columns are found as of `csv:`, and `?text=COLUMN&image=COLUMN` says it otherwise. An image is
bytes, a path (relative to its file, or to what stands behind the @), base64, or what `datasets`
writes, {bytes, path}; whose features, where the file has them, also say which column is the image,
what the classes are called, and what stands in boxes (`objects`). Null values are left out.

Parquet has no random access: to read a row is to read its row group. Those read last are kept, up
to 512 MB in all, and one is read at a time; a row group of more than 1 GB is refused. Where the
whole does not fit and the order is shuffled, each record costs a row group: write small ones (100
rows with images), or `unified-fm data convert` it. A shard that cannot be read, or that the others'
`-of-` number promises and that is not there, is treated as of `array_record:`.
"""

import concurrent.futures
from collections.abc import Sequence
from typing import Any, NamedTuple

from unified_fm import buckets
from unified_fm.data import shards
from unified_fm.data.sections import Sections
from unified_fm.data.skips import Skip
from unified_fm.data.sources import _arguments, _arrow, _columns, base
from unified_fm.data.sources._kept import Kept, Stamped

_KEPT = 512_000_000  # bytes of row groups, in a process
_MOST = 1_000_000_000  # bytes of one
_OPEN = 256  # files whose metadata are kept
_THREADS = 16


class _File(NamedTuple):
    """A file as it was when its footer was read."""

    stamp: Stamped
    rows: Sequence[int]  # of each row group
    columns: Sequence[str]
    features: Any
    largest: int  # bytes of the largest row group


class Source(base.Source):
    """Random access to the rows; see the module for the format."""

    def __init__(self, argument: str):
        """Reads the footers.

        Raises:
            FileNotFoundError: no file matches, or one is missing and that is not allowed.
            ValueError: none can be read, columns of which none is known, other columns in another
                file, a row group that is too large.
            ModuleNotFoundError: PyArrow is not installed.
        """
        where = f"parquet:{argument}"
        arrow = _arrow.modules("parquet")
        parts = _arguments.parse(argument, "parquet", _columns.OPTIONS)
        names = _arguments.find(parts, "parquet", ".parquet")
        self.problems = [("missing shard", path) for path in names.missing]
        threads = min(_THREADS, len(names.found))
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda path: _look(arrow, path), names.found))
        files = [file for file in found if isinstance(file, _File)]
        self.problems += [
            ("unreadable shard", str(file)) for file in found if not isinstance(file, _File)
        ]
        if not files:
            raise ValueError(
                f"{where}: none of {len(found)} files can be read as Parquet:"
                f" {self.problems[-1][1]}"
            )
        for file in files:
            _columns.same(files[0].columns, file.columns, file.stamp.path, files[0].stamp.path)
            if file.largest > _MOST:
                raise ValueError(
                    f"{file.stamp.path} has a row group of {file.largest / 1e6:,.0f} MB, all of"
                    f" which is read for any of its rows; at most {_MOST / 1e6:,.0f}. Write it"
                    " with smaller ones: pyarrow.parquet.write_table(table, path,"
                    " row_group_size=100)"
                )
        self._stamps = [file.stamp for file in files]
        self._roots = [parts.root or buckets.path(file.stamp.path).parent for file in files]
        self._groups = [
            (n, group) for n, file in enumerate(files) for group in range(len(file.rows))
        ]
        self._sections = Sections(rows for file in files for rows in file.rows)
        self.lost = round((len(found) - len(files)) * len(self._sections) / len(files))
        first = files[0]
        self._rows = _arrow.Rows(first.columns, first.features, parts.options, where)
        self.class_names = self._rows.class_names

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a row that cannot be read, or whose image path is refused."""
        which, row = self._sections.locate(index)
        number, group = self._groups[which]
        stamp = self._stamps[number]
        try:
            table = _GROUPS.get((stamp, group), lambda: _read(stamp, group))
            found = table.slice(row, 1).to_pylist()[0]
        except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError
            if isinstance(error, shards.OutOfDescriptors):
                raise
            raise Skip("damaged record", str(error)) from error
        return self._rows.example(found, self._roots[number], index)

    def place(self, index: int) -> str:
        """The file, the row group and the row in it."""
        which, row = self._sections.locate(index)
        number, group = self._groups[which]
        return f"{self._stamps[number].path}, row {row} of row group {group}"


def _look(arrow: Any, path: str) -> _File | str:
    """Reads the footer; where it cannot be read, what is wrong with it."""
    stamp = Stamped.of(path)
    try:
        with arrow.parquet.ParquetFile(_source(path)) as file:
            metadata, schema = file.metadata, file.schema_arrow
            groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
            return _File(
                stamp,
                [group.num_rows for group in groups],
                schema.names,
                _arrow.features_of(schema),
                max((group.total_byte_size for group in groups), default=0),
            )
    except (ValueError, OSError) as error:
        return f"{path}: {error}"


def _read(stamp: Stamped, group: int) -> Any:
    """A row group as a table of one chunk."""
    file = _FILES.get(stamp, lambda: _open(stamp))
    return file.read_row_group(group, use_threads=False).combine_chunks()


def _open(stamp: Stamped) -> Any:
    stamp.check()
    return _arrow.modules("parquet").parquet.ParquetFile(_source(stamp.path))


def _source(path: str) -> Any:
    """A path that Arrow opens itself, or a file in a bucket, of which it reads what it wants."""
    return buckets.open_binary(path) if buckets.holds(path) else path


_FILES: Kept[Any] = Kept(lambda: max(1, min(_OPEN, shards.open_file_limit() // 16)))
# One at a time: what threads read at once is not yet in the sum.
_GROUPS: Kept[Any] = Kept(lambda: _KEPT, lambda table: table.nbytes, one_by_one=True)
