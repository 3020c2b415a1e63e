"""Which settings differ between a saved run and this one, as far as that matters."""

import json
from collections.abc import Mapping
from typing import Any

_HARMLESS = ("threads", "max_skip")


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists the differences that give a resumed run other data or another model.

    The seed, the model, the tokenizer and the streams are compared; rates, lengths, devices and
    logging may change, and so may what a stream's order and arrays do not depend on.

    Args:
        before, now: plain dicts (`Settings.plain`).
    """
    before, now = json.loads(json.dumps([before, now]))  # a tuple comes back as a list
    lines = []
    for key in ("seed", "model", "tokenizer", "streams", "gradient_groups", "merge"):
        old, new = _flat(before.get(key), key), _flat(now.get(key), key)
        for name in sorted(set(old) | set(new)):
            if key == "streams" and name.split(".")[2] in _HARMLESS:
                continue
            if old.get(name, "absent") != new.get(name, "absent"):
                lines.append(f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}")
    return lines


def _flat(tree: Any, prefix: str) -> dict[str, str]:
    if isinstance(tree, Mapping):
        return {
            name: value
            for key, sub in tree.items()
            for name, value in _flat(sub, f"{prefix}.{key}").items()
        }
    return {prefix: str(tree)}
