"""Which name belongs to which row: the strict half of a conversion, without reading an array."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from unified_fm import choices
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.patterns import compile_foreign, compile_ours, write_ours
from unified_fm.convert.rows import Report, Row, Table, Tied, Unused

_SHOWN = 10  # names listed of each kind


@dataclasses.dataclass(frozen=True)
class Move:
    """One array to convert: its foreign name, its row and our paths, all written out."""

    name: str
    row: Row
    paths: tuple[str, ...]


@dataclasses.dataclass
class Recognised:
    """Foreign names by role. Keys of `rows` are (row, layer); a shared array has layer None."""

    rows: dict[tuple[Row, int | None], str] = dataclasses.field(default_factory=dict)
    tied: dict[str, Tied] = dataclasses.field(default_factory=dict)
    unused: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)


def recognise(table: Table, names: Iterable[str]) -> Recognised:
    """Finds the row of every foreign name.

    Raises:
        ConversionError: two names are spellings of the same array.
    """
    seen = Recognised()
    patterns = [
        (row, compile_foreign(spelling))
        for row in table
        for spelling in (row.spellings if isinstance(row, Row) else (row.foreign,))
    ]
    for name in names:
        for row, pattern in patterns:
            fits, layer = pattern.match(name)
            if fits:
                _file(seen, row, layer, name)
                break
        else:
            seen.unexpected.append(name)
    return seen


def _file(seen: Recognised, row: Row | Tied | Unused, layer: int | None, name: str) -> None:
    if isinstance(row, Unused):
        seen.unused.append(name)
    elif isinstance(row, Tied):
        seen.tied[name] = row
    else:
        other = seen.rows.setdefault((row, layer), name)
        if other != name:
            raise ConversionError(f"{other} and {name} are two spellings of the same array")


def plan(
    table: Table, seen: Recognised, layers: Mapping[str, int]
) -> tuple[list[Move], dict[str, str]]:
    """Lists the arrays to convert, and `{foreign name: our path}` of those that are missing."""
    counts = _counts(seen) | dict(layers)
    active = {row.part for row, _ in seen.rows} | {""}

    moves, missing = [], {}
    for row in table:
        if not isinstance(row, Row) or row.part not in active:
            continue
        # A stack of which nothing was found is shown as one missing layer.
        numbers = range(counts.get(row.stack, 1)) if row.per_layer else [None]
        for layer in numbers:
            paths = tuple(write_ours(path, layer) for path in row.paths)
            name = seen.rows.get((row, layer)) or seen.rows.get((row, None))
            if name:
                moves.append(Move(name, row, paths))
            else:
                missing[compile_foreign(row.spellings[0]).write(layer)] = paths[0]
    surplus = [
        name
        for (row, layer), name in seen.rows.items()
        if layer is not None and layer >= counts[row.stack]
    ]
    seen.unexpected += surplus
    return moves, missing


def _counts(seen: Recognised) -> dict[str, int]:
    """Number of layers of every stack, by the highest number in a name."""
    numbers: dict[str, set[int]] = {}
    for row, layer in seen.rows:
        if layer is not None:
            numbers.setdefault(row.stack, set()).add(layer)
    for stack, some in numbers.items():
        # A few that are missing are listed one by one, thousands would only take memory.
        if max(some) > 2 * len(some) + 20:
            raise ConversionError(
                f"a name tells of layer {max(some)} of {stack!r}, of which only {len(some)} layers "
                "have names"
            )
    return {stack: max(some) + 1 for stack, some in numbers.items()}


def our_layers(paths: Iterable[str]) -> dict[str, int]:
    """Number of layers of every stack of our tree (its first path component)."""
    counts = {}
    for path in paths:
        found = re.match(r"([^/]+)/layer_(\d{2,4})/", path)
        if found:
            counts[found[1]] = max(counts.get(found[1], 0), int(found[2]) + 1)
    return counts


def plan_export(table: Table, paths: Sequence[str]) -> tuple[list[Move], dict[str, str], list[str]]:
    """Lists the arrays to write, the missing `{our path: foreign name}`, and what has no row."""
    counts = our_layers(paths)
    have = set(paths)
    rows = [row for row in table if isinstance(row, Row)]
    patterns = {row: [compile_ours(path) for path in row.paths] for row in rows}
    active = {
        row.part
        for row in rows
        if any(pattern.match(path)[0] for pattern in patterns[row] for path in paths)
    } | {""}
    moves, missing, used = [], {}, set()
    for row in rows:
        if row.part not in active:
            continue
        for layer in range(counts.get(row.stack, 1)) if row.per_layer else [None]:
            wanted = tuple(write_ours(path, layer) for path in row.paths)
            name = compile_foreign(row.spellings[0]).write(layer)
            used.update(wanted)
            if have.issuperset(wanted):
                moves.append(Move(name, row, wanted))
            else:
                missing |= {path: name for path in wanted if path not in have}
    return moves, missing, [path for path in paths if path not in used]


def refuse(
    missing: Mapping[str, str],
    unexpected: Sequence[str],
    *,
    known: Iterable[str],
    present: Iterable[str],
    allow: Sequence[str],
    report: Report,
) -> None:
    """Raises unless every misfit is covered by `allow`; writes the covered ones to the report.

    Args:
        missing: name that is not there -> what it is called on the other side.
        unexpected: names without a row.
        known: all names that the table could have taken here, to suggest the nearest one.
        present: all names that are there, likewise.
        allow: regexes that match a name, or its other name, as a whole.
        report: its `allowed` is extended.
    """
    lacking = {name: other for name, other in missing.items() if not allowed(allow, name, other)}
    surplus = [name for name in unexpected if not allowed(allow, name)]
    report.allowed += [name for name in missing if name not in lacking]
    report.allowed += [name for name in unexpected if name not in surplus]
    if not lacking and not surplus:
        return

    lines = [f"names do not fit the table: {len(lacking)} missing, {len(surplus)} unexpected"]
    for name, other in list(lacking.items())[:_SHOWN]:
        lines.append(f"  missing    {name} ({other}){nearest(name, surplus or present)}")
    for name in surplus[:_SHOWN]:
        lines.append(f"  unexpected {name}{nearest(name, list(lacking) or known)}")
    left = max(0, len(lacking) - _SHOWN) + max(0, len(surplus) - _SHOWN)
    if left:
        lines.append(f"  ... and {left} more")
    lines.append("names that may differ can be given as regexes in `allow`")
    raise ConversionError("\n".join(lines))


def allowed(allow: Sequence[str], *names: str) -> bool:
    """Whether one of the regexes matches one of the names as a whole."""
    return any(re.fullmatch(regex, name) for regex in allow for name in names)


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest of `names`, if one is close."""
    near = choices.nearest(name, names)
    return f"; nearest: {near}" if near else ""
