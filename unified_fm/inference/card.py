"""What a loaded model is, as JSON keeps it: sizes, transform, tasks, hashes."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from unified_fm import __version__, rules
from unified_fm.checkpoint import checksums
from unified_fm.inference.parts import Parts


def info(parts: Parts) -> dict[str, Any]:
    """The facts of a checkpoint.

    | key | |
    | --- | --- |
    | `path`, `kind`, `step`, `model` | where it is from |
    | `commit` | of the library that trained a run; "" where it is not known |
    | `tasks`, `lacks` | the methods that work; of the others what is missing |
    | `parameters`, `parts` | their number; {first part of their names: their number} |
    | `sha256` | hashes of parameters, config and tokenizer |
    | `images`, `texts` | how they are read: the options of the run's pipelines |
    | `classes` | {kind of head: names}, of heads that predict |
    | `dtype`, `devices`, `batch_size`, `version` | how it runs here |
    """
    facts = dict(parts.facts)
    config = facts.pop("config", None)
    leaves = list(rules.named_leaves(parts.params))
    hashes = {"parameters": checksums.sha256(leaves)}
    if config is not None:
        hashes["config"] = _hash(json.dumps(config, sort_keys=True, default=str))
    if "texts" in parts.widths and parts.tokenizer is not None:
        hashes["tokenizer"] = _hash(parts.tokenizer.text())
    reading = parts.preprocessing
    counts = _counted(leaves)
    return facts | {
        "tasks": list(parts.abilities.tasks),
        "lacks": parts.abilities.lacks,
        "parameters": sum(counts.values()),
        "parts": counts,
        "sha256": hashes,
        "images": _options(reading.image, ("size", "patch_size", "max_pixels", "fit", "centre")),
        "texts": {
            "about images": _options(reading.caption, ("clean", "max_len", "max_words")),
            "alone": _options(reading.text, ("clean", "max_len", "max_words")),
        },
        "classes": {kind: list(head.names) for kind, head in parts.by_kind.items()},
        "version": __version__,
    }


def _counted(leaves: Sequence[tuple[str, Any]]) -> dict[str, int]:
    """{first part of their names: how many numbers} of parameters (name, array)."""
    counts: dict[str, int] = {}
    for name, leaf in leaves:
        part = name.split("/")[0]
        counts[part] = counts.get(part, 0) + int(np.size(leaf))
    return counts


def _options(pipeline: Any, names: tuple[str, ...]) -> dict[str, Any] | None:
    if pipeline is None:
        return None
    known = {field.name for field in dataclasses.fields(pipeline)}
    return {name: getattr(pipeline, name) for name in names if name in known}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
