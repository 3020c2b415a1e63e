"""One shard of a conversion: written whole or not at all, and accounted for.

A shard is done when its account, `.NAME-unfinished/00003.json`, is there and its file has the hash
that the account says: whoever is asked for it again reads the file and writes nothing. The account
comes after the file, which comes after its last byte is on the disk; a kill at any point leaves a
shard that is done, or one that is made again, with the same bytes.
"""

import atexit
import base64
import collections
import contextlib
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from unified_fm import files
from unified_fm.data import fields, records
from unified_fm.data.prepare.job import Job
from unified_fm.data.prepare.pack import pack
from unified_fm.data.skips import Parts, Skip
from unified_fm.data.source import name_record, open_source

NAMED = 3  # records named for each reason
_BLOCK = 1 << 20
# Names of the published files, beside ours, which `xfm_line` alone gives.
_PUBLISHED = {name for ours, names in fields.NAMES.items() for name in names if name != ours}


def write(job: Job, shard: int) -> dict[str, Any]:
    """Writes a shard, unless it is done already.

    Returns:
        Its account: `file`, `records`, `bytes`, `sha256`; `skipped` {reason: count} and `examples`
        {reason: [which]}; `parts` {"seen", "dropped": {reason: count}, "advice"}; `schema` {field:
        {kind: count}}; `key` of the job.

    Raises:
        OSError: it cannot be written.
    """
    account = account_of(job, shard)
    if account is not None and account["sha256"] == measured(job.file(shard))["sha256"]:
        return account
    made = _Account()
    job.folder.mkdir(parents=True, exist_ok=True)
    with files.whole(job.file(shard), durable=True) as path, _writer(job, path) as add:
        for index, example in _packed(job, shard, made):
            try:
                add(example)
            except (TypeError, ValueError) as error:
                made.skip(Skip("value that a shard cannot hold", str(error)), f"record {index}")
                continue
            made.see(example)
    account = {
        "key": job.key,
        "file": job.file(shard).name,
        **measured(job.file(shard)),
        **made.plain(),
    }
    job.accounts.mkdir(parents=True, exist_ok=True)
    files.write_whole(_place(job, shard), json.dumps(account, indent=1), durable=True)
    return account


def account_of(job: Job, shard: int) -> dict[str, Any] | None:
    """The account of a shard whose file is there in its size; None: it is not done."""
    try:
        account = json.loads(_place(job, shard).read_text("utf-8"))
        size = job.file(shard).stat().st_size
    except (FileNotFoundError, ValueError):
        return None
    return account if (account.get("key"), account.get("bytes")) == (job.key, size) else None


def measured(path: pathlib.Path) -> dict[str, Any]:
    """`bytes` and `sha256` of a file."""
    found, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
            size += len(block)
    return {"bytes": size, "sha256": found.hexdigest()}


@functools.lru_cache(maxsize=1)
def _opened(spec: str) -> Any:
    """The source, opened once in each process: its index may be large."""
    atexit.register(_opened.cache_clear)  # while modules, which it needs to close files, are there
    return open_source(spec)


def _packed(job: Job, shard: int, made: "_Account") -> Iterator[tuple[int, dict[str, Any]]]:
    source = _opened(job.source)
    for index in job.span(shard):
        example: dict[str, Any] = {}
        parts = Parts()
        try:
            example = source[index]
            packed = pack({"id": index, **example}, job.packing, parts)
        except Skip as skip:
            made.skip(skip, name_record(source, job.source, index, example))
            continue
        except Exception as error:
            error.add_note(f"at {name_record(source, job.source, index, example)}")
            raise
        made.parts.add(parts)
        yield index, packed


@contextlib.contextmanager
def _writer(job: Job, path: pathlib.Path) -> Iterator[Any]:
    """Gives a function that adds an example to the file.

    Raises:
        OSError: it cannot be written to its end.
    """
    if job.form == "jsonl":
        with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
            yield lambda example: file.write(xfm_line(example))
        return
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    try:
        yield lambda example: writer.write(records.encode(example))
    finally:
        try:
            writer.close()
        except RuntimeError as error:  # only here it says that the disk is full
            raise OSError(f"{path} cannot be written: {error}") from error


def xfm_line(example: dict[str, Any]) -> str:
    """An example under the field names of the published X-FM files, which `jsonl:` reads.

    `binary` is the image in base64. With regions, `elems` are they, with `bb`, `caption` and
    `attributes`, and `caption` is the text of the whole image; else the text is `desc`. Other
    fields stay, but for those that bear one of these names: they would be read in place of ours.

    Raises:
        TypeError: a value that JSON does not have, or regions that are none.
        ValueError: NaN or infinity.
    """
    rest = {name: value for name, value in example.items() if name not in _PUBLISHED}
    line: dict[str, Any] = {"image_id": rest.pop("id", None)}
    image = rest.pop("image", None)
    if image is not None:
        line["binary"] = base64.b64encode(image).decode("ascii")
    if "images" in rest:
        line["images"] = [base64.b64encode(each).decode("ascii") for each in rest.pop("images")]
    regions = rest.pop("regions", None)
    if regions is not None:
        if not isinstance(regions, list) or not all(isinstance(each, dict) for each in regions):
            raise TypeError("regions are a list of objects, each with `box` and `text`")
        names = {"box": "bb", "text": "caption"}
        line["elems"] = [{names.get(k, k): v for k, v in region.items()} for region in regions]
    if "text" in rest:
        line["desc" if regions is None else "caption"] = rest.pop("text")
    return json.dumps(line | rest, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}, which JSON does not have")


def _place(job: Job, shard: int) -> pathlib.Path:
    return job.accounts / f"{shard:05d}.json"


class _Account:
    """What became of the records of a shard."""

    def __init__(self):
        self.records = 0
        self.parts = Parts()
        self._skipped: collections.Counter[str] = collections.Counter()
        self._named: dict[str, list[str]] = {}
        self._schema: dict[str, collections.Counter[str]] = {}

    def skip(self, skip: Skip, record: str) -> None:
        self._skipped[skip.reason] += 1
        named = self._named.setdefault(skip.reason, [])
        if len(named) < NAMED:
            named.append(f"{record}: {skip}")

    def see(self, example: dict[str, Any]) -> None:
        self.records += 1
        for field, value in example.items():
            self._schema.setdefault(field, collections.Counter())[kind(value)] += 1

    def plain(self) -> dict[str, Any]:
        parts = {"seen": self.parts.seen, "dropped": dict(sorted(self.parts.dropped.items()))}
        return {
            "records": self.records,
            "skipped": dict(sorted(self._skipped.items())),
            "examples": dict(sorted(self._named.items())),
            "parts": parts | {"advice": self.parts.advice()},
            "schema": {field: dict(sorted(kinds.items())) for field, kinds in self._schema.items()},
        }


def kind(value: Any) -> str:
    """What a value is, for the schema: "str", "list of dict", "u8[* * 3]"."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}[{value.ndim} axes]"
    if isinstance(value, list | tuple):
        inner = sorted({type(each).__name__ for each in value})
        return f"list of {' or '.join(inner)}" if inner else "empty list"
    return type(value).__name__
