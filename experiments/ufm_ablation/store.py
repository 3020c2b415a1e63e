"""Where results are kept: a folder per arm, whole or absent, with the numbers it came from.

WORKDIR/NAME/params.safetensors   parameters, a leading axis of seeds
WORKDIR/NAME/result.json          measurements and settings; written last
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.ufm_ablation import sizes
from unified_fm import files, rules
from unified_fm.convert.readers import safetensors_file
from unified_fm.convert.table import unflatten


def result(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result in a folder; None if it has none.

    Raises:
        ValueError: it came from other settings; with both values of each.
    """
    file = folder / "result.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    lines = sizes.differences(found["settings"], settings)
    if lines:
        raise ValueError(
            f"{folder} has a result of other settings; choose another --workdir or delete it:\n  "
            + "\n  ".join(lines)
        )
    return found


def keep(folder: Path, params: Any, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes parameters and result; the result last, so that it says that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(leaf) for name, leaf in rules.named_leaves(jax.device_get(params))}
    safetensors_file.write_safetensors(folder / "params.safetensors", arrays)
    write_json(folder / "result.json", {**found, "settings": dict(settings)})


def params(folder: Path) -> Any:
    """The parameters in a folder, f32[S ...]."""
    opened = safetensors_file.open_safetensors(folder / "params.safetensors")
    return unflatten({name: np.array(opened[name]) for name in opened})


def write_json(file: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    files.write_whole(file, json.dumps(value, indent=1) + "\n")
