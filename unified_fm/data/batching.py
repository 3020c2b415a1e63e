"""The form of one stream's batches: which slots this process has, their arrays, how they join."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unified_fm.data import specs
from unified_fm.data.pipelines import base
from unified_fm.data.specs import Tree
from unified_fm.data.tokenizer import Tokenizer


class Part(NamedTuple):
    """Which rows of every batch a process loads: some of the shards into which it is cut.

    On a pod they need not be neighbours, and two processes may hold the same one.

    Attributes:
        shards: their numbers, ascending.
        of: how many there are.
    """

    shards: tuple[int, ...] = (0,)
    of: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What a stream's entry in a config says; `config.settings.Stream` documents each key.

    Attributes:
        options: those of the pipeline; all else the pipeline does not see.
    """

    pipeline: str
    source: str | Sequence[str]
    batch_size: int
    objectives: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_skip: float = 0.01
    shuffle: bool = True
    weights: Sequence[Any] | None = None
    cycle: int = 0
    threads: int | None = None
    images: int | None = None
    groups: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, name: str, given: "Entry | Mapping[str, Any]") -> "Entry":
        """Reads an entry as `streams.stream` makes it.

        Raises:
            ValueError: pipeline, source or batch size is lacking, or the pipeline does not exist.
            TypeError: the pipeline is none.
        """
        if isinstance(given, Entry):
            return given
        for key in ("pipeline", "source", "batch_size"):
            if key not in given:
                raise ValueError(
                    f"stream {name!r} lacks {key!r}; it has {', '.join(sorted(given))}"
                )
        own = own_options(base.load(given["pipeline"]))
        options = {key: value for key, value in given.items() if key not in own}
        return cls(**{key: given[key] for key in own if key in given}, options=options)


class Batching:
    """A stream's pipeline and sizes; no data is needed for it.

    Attributes:
        pipeline: makes the arrays of one example.
        rows: of the global batch.
        slots: examples that a global batch takes from the source: its rows, or, where rows are
            packed (regions), its images.
        groups: number of equal parts; a row refers only to rows and images of its own.
    """

    def __init__(
        self,
        name: str,
        config: Entry | Mapping[str, Any],
        *,
        part: Part | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        """Builds the pipeline from the options that are not the stream's own.

        Raises:
            ValueError: something is lacking, an unknown pipeline, or sizes that do not divide.
            TypeError: an unknown option, with the nearest one.
        """
        self.name = name
        self.part = part or Part()
        entry = Entry.of(name, config)
        plugin = base.load(entry.pipeline)
        self.pipeline = base.make(
            plugin,
            entry.options,
            tokenizer=tokenizer,
            what=f"stream {name!r}",
            others=own_options(plugin),
        )
        self.rows: int = entry.batch_size
        self.slots: int = self.rows
        self.groups: int = entry.groups or 1
        if plugin.packed:
            if entry.images is None:
                raise ValueError(
                    f"stream {name!r} packs several rows (texts) per image: beside"
                    f" batch_size={self.rows}, its rows, it needs images=..., those of the global"
                    " batch"
                )
            self.slots = entry.images
        self._check_sizes()

    @property
    def local_slots(self) -> int:
        """Slots of a global batch that belong to this process."""
        return self.slots // self.part.of * len(self.part.shards)

    @property
    def slot_axis(self) -> str:
        """What the slots count: "rows", or "images" where rows are packed."""
        return "images" if self.pipeline.packed else "rows"

    def slot_of(self, start: int, place: int) -> int:
        """The global slot of this process's example number `place`, counted from slot `start`."""
        batch, within = divmod(place, self.local_slots)
        size = self.slots // self.part.of
        return start + batch * self.slots + self.part.shards[within // size] * size + within % size

    def spec(self) -> Tree:
        """{array: its shape and dtype} of the global batch, without reading any data."""
        return self.of_global_batch(self.pipeline.spec())

    def of_global_batch(self, of_a_row: Mapping[str, Any]) -> Tree:
        """The specs of the global batch from those of one row or image."""
        return specs.batched(of_a_row, {"rows": self.rows, "images": self.slots})

    def collate(self, examples: list[dict[str, Any] | None]) -> base.Arrays:
        """The examples of this process as its part of the global batch."""
        try:
            return self.pipeline.collate(
                examples,
                rows=self.rows // self.part.of * len(self.part.shards),
                groups=self.groups // self.part.of * len(self.part.shards),
            )
        except ValueError as error:
            error.add_note(f"in stream {self.name!r}")
            raise

    def _check_sizes(self) -> None:
        sizes = {"batch_size": self.rows}
        if self.pipeline.packed:
            sizes["images"] = self.slots
            if self.groups % self.part.of:
                raise ValueError(
                    f"stream {self.name!r}: groups={self.groups} do not divide among the"
                    f" {self.part.of} parts of the batch, and rows refer to images of their group"
                )
        for what, size in sizes.items():
            for parts, name in ((self.groups, "groups"), (self.part.of, "parts of the batch")):
                if size < 1 or size % parts:
                    raise ValueError(
                        f"stream {self.name!r}: {what}={size} does not divide among {parts} {name}"
                    )


def own_options(pipeline: Any) -> dict[str, Any]:
    """{option: type} of a stream with this pipeline (the class), beside the pipeline's own.

    Raises:
        TypeError: it is no pipeline.
    """
    kinds = typing.get_type_hints(Entry)
    others = {"options"} if base.checked(pipeline).packed else {"options", "images"}
    return {name: kind for name, kind in kinds.items() if name not in others}
