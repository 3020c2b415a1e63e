"""The rows a conversion table is made of, and the report of one conversion."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from unified_fm.convert import transforms

_SHOWN = 10  # names listed of each kind


@dataclasses.dataclass(frozen=True)
class Row:
    """One foreign array that holds one (or, fused, several) of our parameters.

    Attributes:
        ours: our path, or the paths that a fused array is cut into; may hold `{i}`.
        foreign: accepted name patterns, the first of which is written. One without `{i}` for paths
            with `{i}` is an array shared by all layers: it is copied to each of them.
        transform: how the array changes.
        part: rows of the same part are all there or all absent; "" is never absent.
    """

    ours: str | tuple[str, ...]
    foreign: str | tuple[str, ...]
    transform: transforms.Transform = transforms.SAME
    part: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Our path patterns, always as a tuple."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def spellings(self) -> tuple[str, ...]:
        """The foreign name patterns, always as a tuple."""
        return (self.foreign,) if isinstance(self.foreign, str) else self.foreign

    @property
    def stack(self) -> str:
        """The first component of our path: `text`, `vision`, `fusion`, `mlm_head`, ..."""
        return self.paths[0].split("/")[0]

    @property
    def per_layer(self) -> bool:
        """Whether there is one such parameter in every layer."""
        return "{i}" in self.paths[0]


@dataclasses.dataclass(frozen=True)
class Tied:
    """A foreign copy of a parameter: need not be there, must equal its source, is rebuilt."""

    ours: str
    foreign: str
    transform: transforms.Transform = transforms.SAME
    written: bool = True


@dataclasses.dataclass(frozen=True)
class Unused:
    """A foreign array that nothing of ours uses: accepted, reported, and filled when exporting.

    `fill` makes it from the exported array `like` (a pattern); without `fill` it is not written.
    """

    foreign: str
    like: str = ""
    fill: Callable[[np.ndarray], np.ndarray] | None = None


Table = Sequence[Row | Tied | Unused]


@dataclasses.dataclass(kw_only=True)
class Report:
    """What a conversion did beside moving arrays; every field is a list of foreign names.

    Attributes:
        converted: arrays that became, or were made from, parameters of ours.
        tied: copies that were compared with their source, or rebuilt from it.
        unused: arrays of the file that nothing of ours uses.
        filled: exported arrays that hold made-up values, because nothing of ours corresponds.
        allowed: names that do not fit the table but are covered by the allow-list.
    """

    converted: list[str] = dataclasses.field(default_factory=list)
    tied: list[str] = dataclasses.field(default_factory=list)
    unused: list[str] = dataclasses.field(default_factory=list)
    filled: list[str] = dataclasses.field(default_factory=list)
    allowed: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.converted)} converted"]
        for kind in ("tied", "unused", "filled", "allowed"):
            listed = getattr(self, kind)
            if listed:
                more = ", ..." if len(listed) > _SHOWN else ""
                lines.append(f"{len(listed)} {kind}: {', '.join(listed[:_SHOWN])}{more}")
        return "\n".join(lines)
