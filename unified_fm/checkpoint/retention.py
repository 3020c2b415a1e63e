"""Which steps are kept, which are complete, and how the others are removed."""

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from unified_fm import files

_log = logging.getLogger(__name__)
_FILE = "metrics.json"
_ARRAYS = "_METADATA"  # in the folder of every item that holds arrays
_JSON = "metadata"  # in the folder of every other item
_STEP = "_CHECKPOINT_METADATA"  # names the items


class Kept:
    """Keeps the latest steps and the best one: a preservation policy for Orbax.

    Attributes:
        metrics: {step: {name: value}} of the steps that were evaluated.
    """

    def __init__(self, directory: Any, *, keep: int, best: str | None, best_mode: str):
        """Reads what was recorded in `directory`.

        Raises:
            ValueError: `keep` is below 1, or `best_mode` is neither "max" nor "min".
        """
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"checkpoint.keep must be an integer of at least 1, found {keep!r}")
        if best_mode not in ("max", "min"):
            raise ValueError(f"checkpoint.best_mode is 'max' or 'min', found {best_mode!r}")
        self._directory = directory
        self._keep, self._best = keep, best
        self._sign = 1 if best_mode == "max" else -1
        self._complete: dict[int, bool] = {}
        self.metrics = _read(directory / _FILE)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's question; the step that is being written is one of `checkpoints`."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        complete = self.complete(steps)
        wanted, oldest = self.wanted(complete), complete[-self._keep :][0]
        # A step with a part missing goes as soon as it would have gone had it been complete.
        return [s in wanted or (s not in complete and s > oldest) for s in steps]

    def wanted(self, steps: Sequence[int]) -> set[int]:
        """Those of the steps that are to be kept."""
        best = self.best(steps)
        return {*sorted(steps)[-self._keep :], *(() if best is None else (best,))}

    def best(self, steps: Sequence[int]) -> int | None:
        """That of the steps whose metric is best, of equals the latest; None: it has none."""
        values = {s: self._value(s) for s in steps}
        found = {s: value for s, value in values.items() if value is not None}
        return max(found, key=lambda s: (self._sign * found[s], s), default=None)

    def complete(self, steps: Sequence[int]) -> list[int]:
        """Those of the steps that have all their parts, in order.

        And those after the last of them: a latest step that has lost a part is damaged, which is to
        be said when it is read, and not to be passed over in silence. One that is gone is none: the
        run that writes here may remove a step after another process has listed it.
        """
        whole = [step for step in steps if self._is_complete(step)]
        later = (step for step in steps if step > max(whole, default=-1))
        return sorted({*whole, *(s for s in later if (self._directory / str(s)).exists())})

    def written(self, step: int) -> None:
        """Takes note of a step that this process writes: Orbax shows it when it is complete."""
        self._complete[step] = True

    def lost(self, step: int) -> None:
        """Takes note that a step could not be written."""
        self._complete.pop(step, None)

    def record(self, step: int, metrics: Mapping[str, float], steps: Sequence[int]) -> None:
        """Writes the metrics of `step`, and forgets those of steps that are gone."""
        self.metrics[step] = {name: float(value) for name, value in metrics.items()}
        self.metrics = {s: found for s, found in self.metrics.items() if s in steps}
        if jax.process_index():
            return
        path = self._directory / _FILE
        found = {str(s): m for s, m in sorted(self.metrics.items())}
        try:
            files.write_whole(path, json.dumps(found), durable=True)
        except OSError as error:
            _log.warning("%s could not be written (%s); the run goes on", path, error)

    def _value(self, step):
        if self._best is None:
            return None
        found = self.metrics.get(step)
        if found is None:  # a run that was begun before there was a file for all steps
            found = _read_json(self._directory / str(step) / "metrics" / "metrics") or {}
            self.metrics[step] = found
        value = found.get(self._best)
        return None if value is None or value != value else value

    def _is_complete(self, step):
        if self._complete.get(step):
            return True
        where = self._directory / str(step)
        missing = _missing(where)
        # Said once; it may yet be written to the end.
        if missing and step not in self._complete and where.exists():
            _log.warning("%s lacks %s: it is no checkpoint", where, ", ".join(missing))
        self._complete[step] = not missing
        return not missing


class Trash:
    """Steps that were removed: renamed first, which is one act, and then deleted.

    A process that is killed while it deletes leaves no step with half of its files.
    """

    def __init__(self, directory: Any):
        """Empties what an earlier process has left.

        Args:
            directory: of the checkpoints; None if nothing is to be deleted. On a bucket nothing can
                be renamed: Orbax deletes there.
        """
        self.folder, self._path = None, None
        if directory is not None and "://" not in str(directory):
            self.folder, self._path = "deleted", directory / "deleted"
        self._thread: threading.Thread | None = None
        self.empty()

    def empty(self) -> None:
        """Deletes, in the background, what is in it."""
        self.close()
        if self._path is None or jax.process_index() or not self._path.exists():
            return
        self._thread = threading.Thread(
            target=self._delete, args=(self._path,), daemon=True, name="trash"
        )
        self._thread.start()

    def close(self) -> None:
        """Waits for the deletion."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _delete(self, folder: Any) -> None:
        try:
            for path in folder.iterdir():
                path.rmtree()
        except OSError as error:
            _log.warning("%s could not be emptied: %s", folder, error)


def remove_while_written(folder: Any) -> None:
    """Removes a folder into which a thread may still write, and says so where that fails.

    What stays is no harm: no reader takes an unfinished save for a checkpoint.
    """
    for patience in (0.1, 0.3, 1.0, 3.0, None):
        try:
            folder.rmtree(missing_ok=True)
            return
        except OSError as error:
            if patience is None:
                _log.warning("the unfinished save %s could not be removed: %s", folder, error)
                return
            time.sleep(patience)


def _read(path: Any) -> dict[int, dict[str, float]]:
    try:
        return {int(step): dict(found) for step, found in (_read_json(path) or {}).items()}
    except (TypeError, ValueError) as error:
        _log.warning("%s is damaged, it is left out: %s", path, error)
        return {}


def _read_json(path: Any) -> Any:
    try:
        found = json.loads(path.read_text()) if path.exists() else None
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return None
    return found if isinstance(found, dict) else None


def _missing(step: Any) -> list[str]:
    """What a step's folder lacks of what its own list names."""
    if not (step / _STEP).exists():
        return [_STEP]
    items = (_read_json(step / _STEP) or {}).get("item_handlers")
    lacking = []
    for item in items if isinstance(items, dict) else ():
        names = [_ARRAYS, _JSON]
        if not any((step / item / name).exists() for name in names):
            lacking.append(item)
    return lacking
