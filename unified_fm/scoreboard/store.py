"""Finished cells on disk: one JSON file each, written whole; what is there is never made again.

    FOLDER/cells/KEY.json     the cell, its hashes, what it took, and the hash of its predictions
    FOLDER/cells/KEY.jsonl    the predictions, one line for each test example

The predictions are written first. A process that is killed between the two files, or while it
writes one, leaves no finished cell; the next one makes it again.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unified_fm.files import write_whole
from unified_fm.scoreboard.cell import Cell, Finished, Hashes

_log = logging.getLogger(__name__)
_FORM = 1  # raise it when the files mean something else than before


class Store:
    """The finished cells below a folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder) / "cells"

    def get(self, key: str) -> Finished | None:
        """The cell of this key; None if it is not finished, or its files are damaged."""
        path = self.folder / f"{key}.json"
        try:
            found = json.loads(path.read_text("utf-8"))
            text = path.with_suffix(".jsonl").read_bytes()
            if found["form"] != _FORM or found["predictions"] != _digest(text):
                raise ValueError("its predictions are others, or it is of another version")
            finished = Finished(
                cell=Cell(**found["cell"] | {"changes": tuple(found["cell"]["changes"])}),
                hashes=Hashes(**found["hashes"]),
                lines=[json.loads(line) for line in text.splitlines()],
                seconds=found["seconds"],
                facts=found["facts"],
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("%s is not used, and made again: %s", path, error)
            return None
        if finished.key != key:
            _log.warning("%s is not used: it is the cell %s", path, finished.key)
            return None
        return finished

    def put(self, finished: Finished) -> None:
        """Keeps a cell. Raises OSError where it cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in finished.lines)
        path = self.folder / f"{finished.key}.json"
        write_whole(path.with_suffix(".jsonl"), text, durable=True)
        about: Mapping[str, Any] = {
            "form": _FORM,
            "cell": dataclasses.asdict(finished.cell),
            "hashes": dataclasses.asdict(finished.hashes),
            "seconds": round(finished.seconds, 2),
            "facts": dict(finished.facts),
            "predictions": _digest(text.encode()),
        }
        write_whole(path, json.dumps(about, indent=1, ensure_ascii=False), durable=True)

    def keys(self) -> Iterator[str]:
        """The keys of all cells there are, in a fixed order."""
        yield from sorted(path.stem for path in self.folder.glob("*.json"))


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
