"""The conversion engine: a family of checkpoints is a table of rows, used in both directions.

A row pairs a path of our parameter tree with a foreign name and a transform (`rows.py`). Names are
checked strictly: what is missing or unexpected is an error with a readable list, unless a regex of
`allow` covers it. Sizes come from the arrays; only the number of heads cannot be read off a matrix.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unified_fm.convert import matching, transforms
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.patterns import compile_foreign
from unified_fm.convert.rows import Report, Row, Table, Tied, Unused


def import_params(
    table: Table,
    foreign: Mapping[str, np.ndarray],
    *,
    heads: int | Mapping[str, int] | None = None,
    fallback_heads: Mapping[str, int] | None = None,
    layers: Mapping[str, int] | None = None,
    allow: Sequence[str] = (),
    report: Report | None = None,
) -> dict:
    """Turns foreign arrays into our nested parameter tree (float32).

    Args:
        table: the rows of the family.
        foreign: foreign name -> array; read one array at a time, so it may be lazy.
        heads: number of attention heads, one number or one per stack (`{"text": 12}`). Without it
            the width of a relative-position table, if there is one, gives it for all stacks.
        fallback_heads: used for a stack of which neither tells the number.
        layers: expected number of layers per stack; without it the names tell.
        allow: regexes; a foreign name or path of ours that one matches as a whole may be missing or
            unexpected, or a tied copy that differs from its source.
        report: filled with what was done, if given.

    Raises:
        ConversionError: names do not fit the table, shapes are wrong, or a tie does not hold.
    """
    report = Report() if report is None else report
    seen = matching.recognise(table, foreign)
    moves, missing = matching.plan(table, seen, layers or {})
    matching.refuse(
        missing,
        seen.unexpected,
        known=[compile_foreign(row.spellings[0]).write(0) for row in table if isinstance(row, Row)],
        present=foreign,
        allow=allow,
        report=report,
    )
    report.unused += seen.unused
    report.converted += dict.fromkeys(move.name for move in moves)

    flat = {}
    find_heads = _heads(heads, moves, foreign, fallback_heads or {})
    for move in moves:
        try:
            array = transforms.float32(np.asarray(foreign[move.name]))
            arrays = move.row.transform.load(array, lambda row=move.row: find_heads(row.stack))
        except ConversionError as error:
            raise ConversionError(f"{move.name} -> {move.paths[0]}: {error}") from error
        # A copy: a view would keep a whole shared or fused array alive.
        flat |= {
            path: np.array(part, order="C") for path, part in zip(move.paths, arrays, strict=True)
        }
    for name, row in seen.tied.items():
        _check_tie(name, row, foreign, flat, allow, report)
    return unflatten(flat)


def export_params(
    table: Table,
    params: Mapping,
    *,
    allow: Sequence[str] = (),
    report: Report | None = None,
) -> dict[str, np.ndarray]:
    """Turns our nested parameter tree into the foreign arrays, in the table's preferred names.

    Args:
        table: the rows of the family.
        params: our tree; leaves are anything that `np.asarray` takes.
        allow: regexes over our paths that may be missing, or have no foreign name and are left out.
        report: filled with what was done; its `filled` lists the names that hold made-up values.

    Raises:
        ConversionError: paths do not fit the table.
    """
    report = Report() if report is None else report
    flat = flatten(params)
    moves, missing, unexpected = matching.plan_export(table, list(flat))
    matching.refuse(
        missing,
        unexpected,
        known=[
            path.replace("{i}", "00") for row in table if isinstance(row, Row) for path in row.paths
        ],
        present=flat,
        allow=allow,
        report=report,
    )
    out = {}
    for move in moves:
        arrays = tuple(transforms.float32(np.asarray(flat[path])) for path in move.paths)
        out[move.name] = np.array(move.row.transform.save(arrays), order="C")
        report.converted.append(move.name)
    for row in table:
        if isinstance(row, Tied) and row.written:
            _write_tied(row, flat, out, report)
        elif isinstance(row, Unused) and row.fill:
            _fill(row, out, report)
    return out


def flatten(tree: Mapping, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dict -> `{"a/b/c": leaf}`."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: Mapping[str, np.ndarray]) -> dict:
    """`{"a/b/c": leaf}` -> nested dict."""
    tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def _heads(heads, moves, foreign, fallback: Mapping[str, int]) -> Callable[[str], int]:
    """Number of heads of a stack: as given, else the width of a relative-position table."""
    tables = [move for move in moves if move.paths[0].endswith("/relative_position_bias")]

    def find(stack: str) -> int:
        if isinstance(heads, int):
            return heads
        if heads is not None and stack in heads:
            return heads[stack]
        if heads is None and tables:
            return int(np.asarray(foreign[tables[0].name]).shape[-1])
        if stack in fallback:
            return fallback[stack]
        raise ConversionError(
            f"the number of heads of {stack!r} cannot be read off the arrays: pass "
            f"heads=NUMBER or heads={{{stack!r}: NUMBER}}"
        )

    return find


def _check_tie(name, row: Tied, foreign, flat, allow, report: Report) -> None:
    """Compares a tied copy with its source, which is already converted."""
    if matching.allowed(allow, name) or row.ours not in flat:
        report.allowed.append(name)
        return
    copy = transforms.float32(np.asarray(foreign[name]))
    if not np.array_equal(row.transform.save((flat[row.ours],)), copy, equal_nan=True):
        raise ConversionError(
            f"{name} should be a copy of {row.ours} but differs from it: the model was trained "
            f"untied; add {name!r} to `allow` to drop the copy"
        )
    report.tied.append(name)


def _write_tied(row: Tied, flat, out: dict, report: Report) -> None:
    if row.ours in flat:
        name = compile_foreign(row.foreign).write(None)
        source = transforms.float32(np.asarray(flat[row.ours]))
        out[name] = np.array(row.transform.save((source,)), order="C")
        report.tied.append(name)


def _fill(row: Unused, out: dict, report: Report) -> None:
    like, name = compile_foreign(row.like), compile_foreign(row.foreign)
    for other in list(out):
        fits, layer = like.match(other)
        if fits and row.fill is not None:
            out[name.write(layer)] = row.fill(out[other])
            report.filled.append(name.write(layer))
