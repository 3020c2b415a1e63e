"""Families of checkpoints by name, and reading one into our tree: `load("roberta", PATH)`."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unified_fm import hub
from unified_fm.convert import config_values, matching
from unified_fm.convert.errors import ConversionError
from unified_fm.convert.readers.weights import open_weights, read_config
from unified_fm.convert.rows import Report, Table
from unified_fm.convert.table import import_params
from unified_fm.convert.tables import augreg, beit, bert, clip, roberta, vit, x2vlm, xfm

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family of checkpoints.

    Attributes:
        tables: one per dialect of names; the best fitting one is used.
        prepare: turns the file's names into those of the tables, if they need it.
        fresh: regexes over our paths that such a checkpoint need not fill in a model.
    """

    tables: tuple[Table, ...]
    fresh: tuple[str, ...] = ()
    prepare: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None = None


# A pre-trained BEiT has no norm that fits ours, and timm's files no mask token (X-FM section 6.6).
_BEIT = Family(tables=(beit.TABLE, beit.ORIGINAL), fresh=("vision/norm/.*", "vision/mask_token"))

FAMILIES = {
    "bert": Family(tables=(bert.TABLE,)),
    "roberta": Family(tables=(roberta.TABLE,)),
    "vit": Family(tables=(vit.TABLE, vit.TIMM)),
    "augreg": Family(tables=(augreg.TABLE,), prepare=augreg.canonical),
    "beit": _BEIT,
    "beit2": _BEIT,
    "clip": Family(tables=(clip.TABLE,)),
    "xfm": Family(tables=(xfm.TABLE,)),
    "x2vlm": Family(
        tables=(x2vlm.TABLE,),
        prepare=x2vlm.canonical,
        fresh=("mlm_head/.*", "vision/mask_token"),
    ),
}


def load(
    family: str,
    path: str | os.PathLike,
    *,
    heads: int | Mapping[str, int] | None = None,
    fallback_heads: Mapping[str, int] | None = None,
    allow: Sequence[str] = (),
    report: Report | None = None,
) -> dict:
    """Reads a checkpoint of a family into our parameter tree.

    Args:
        family: a key of `FAMILIES`.
        path: a file or a Hugging Face folder; see `fetch`.
        heads: number of attention heads; by default from `config.json` beside the weights.
        fallback_heads, allow, report: see `table.import_params`.

    Raises:
        CheckpointFormatError: the file cannot be read safely.
        ConversionError: unknown family, or names or shapes that do not fit it.
    """
    path = fetch(path)
    foreign, table = open_family(family, path)
    report = Report() if report is None else report
    heads = heads_of(read_config(path)) if heads is None else heads
    params = import_params(
        table, foreign, heads=heads, fallback_heads=fallback_heads, allow=allow, report=report
    )
    _log.info("%s: %s", path, report)
    return params


def open_family(family: str, path: str | os.PathLike) -> tuple[Mapping[str, np.ndarray], Table]:
    """Opens the weights and picks the table of the family whose names fit best."""
    chosen = _known(family)
    foreign = open_weights(path)
    if chosen.prepare:
        foreign = chosen.prepare(foreign)

    def misfits(table):
        return len(matching.recognise(table, foreign).unexpected)

    return foreign, min(chosen.tables, key=misfits)


def fetch(path: str | os.PathLike) -> str:
    """A local path as it is; `hf:OWNER/NAME` downloaded to the Hugging Face cache.

    `package:NAME/FOLDER` is a folder in an installed Python package, which is not imported.
    """
    path = os.fspath(path)
    if path.startswith("package:"):
        try:
            return hub.folder(path, ())
        except FileNotFoundError as error:
            raise ConversionError(str(error)) from error
    if not path.startswith("hf:"):
        return path
    found = hub.folder(path, ["*.json", "*.safetensors", "vocab.txt", "merges.txt", "*.model"])
    if not list(pathlib.Path(found).glob("*.safetensors")):
        hub.folder(path, ["pytorch_model*.bin"])
    return found


def heads_of(config: Mapping) -> int | dict[str, int] | None:
    """Number of heads that a Hugging Face `config.json` gives: one, or one per tower.

    Raises:
        ConversionError: it gives something that is no number of heads.
    """
    counts = {}
    for tower in ("text", "vision"):
        if config.get(f"{tower}_config") is not None:
            inner = config_values.section(config, f"{tower}_config")
            counts[tower] = config_values.integer(inner, "num_attention_heads", default=None)
    counts = {tower: count for tower, count in counts.items() if count is not None}
    return config_values.integer(config, "num_attention_heads", default=None) or counts or None


def parse(text: str) -> tuple[str, str]:
    """Splits `FAMILY:PATH`, as configs write it.

    Raises:
        ConversionError: of another form, or an unknown family.
    """
    family, colon, path = text.partition(":")
    if not colon or not path:
        raise ConversionError(f"expected FAMILY:PATH, found {text!r}")
    _known(family)
    return family, path


def _known(family: str) -> Family:
    if family not in FAMILIES:
        raise ConversionError(
            f"unknown family {family!r}{matching.nearest(family, FAMILIES)}; "
            f"possible: {', '.join(FAMILIES)}"
        )
    return FAMILIES[family]
