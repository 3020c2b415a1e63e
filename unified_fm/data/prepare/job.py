"""What a conversion is: a source, where its shards go, and how examples are packed.

A job is a record of plain values, so that it reaches other processes and machines as it is. Which
records are in a shard is told by its number alone; so any number of processes write the same bytes.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from typing import Any

from unified_fm import choices
from unified_fm.data.prepare.pack import Packing

FORMS = {"array_record": "array_record", "jsonl": "jsonl"}  # form -> ending of its files
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_VERSION = 1  # of what is written: shards of another one are not continued


class WorkerFailed(RuntimeError):
    """A process that writes shards has failed, or was ended from outside."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One conversion.

    Attributes:
        source: source string.
        out: folder of the shards; all processes see it under this name.
        name: first part of the files' names.
        shards: how many.
        records: of the source.
        identity: a hash of some of its records (`data.identity.of_source`).
        form: of `FORMS`: our records, or X-FM's JSON lines.
        packing: how examples are packed.
    """

    source: str
    out: str
    name: str = "data"
    shards: int
    records: int
    identity: str
    form: str = "array_record"
    packing: Packing = dataclasses.field(default_factory=Packing)

    def __post_init__(self) -> None:
        choices.check("form", self.form, FORMS)
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name is {self.name!r}; the files are called by it: letters, digits, . _ -"
            )
        if not 1 <= self.shards <= self.records:
            raise ValueError(
                f"{self.shards} shards of {self.records} records; at least 1 shard is needed, and"
                " at most one for each record"
            )

    @property
    def folder(self) -> pathlib.Path:
        """Of the shards."""
        return pathlib.Path(self.out)

    @property
    def accounts(self) -> pathlib.Path:
        """The folder of what is known of the shards that are done, until all are."""
        return self.folder / f".{self.name}-unfinished"

    @property
    def manifest(self) -> pathlib.Path:
        """The file that is there when all shards are."""
        return self.folder / f"{self.name}.manifest.json"

    @property
    def key(self) -> str:
        """Tells this job from those that write other bytes: of all but where they are written."""
        return hashlib.sha256(json.dumps(self.about(), sort_keys=True).encode()).hexdigest()[:16]

    def about(self) -> dict[str, Any]:
        """What decides about the bytes, as JSON."""
        return {
            "version": _VERSION,
            "source": self.source,
            "identity": self.identity,
            "read": self.records,
            "form": self.form,
            "packing": dataclasses.asdict(self.packing),
            "count": self.shards,
        }

    def file(self, shard: int) -> pathlib.Path:
        """The path of a shard."""
        ending = FORMS[self.form]
        return self.folder / f"{self.name}-{shard:05d}-of-{self.shards:05d}.{ending}"

    def span(self, shard: int) -> range:
        """The records that a shard is made of: they follow each other, as in the source."""
        first, last = (k * self.records // self.shards for k in (shard, shard + 1))
        return range(first, last)
