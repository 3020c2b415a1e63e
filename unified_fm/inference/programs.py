"""The model on its devices, asked in batches of few shapes, so that little is ever compiled.

Rows are padded to 1, 2, 4, ... `batch_size`, texts to 16, 32, 64, 128, ... tokens. What is padded
is masked or dropped, and no row looks at another, so a result does not depend on what else is asked
with it. One lock lets several threads ask.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import flax.errors
import jax
import numpy as np
from jax.sharding import Mesh

from unified_fm import sharding, step

_LENGTHS = (16, 32, 64, 128, 256, 512)
_KEPT = 16  # programs of predictions: each list of answers to choose from is another one


class Programs:
    """The compiled functions of a model.

    Attributes:
        batch_size: the most rows that are asked at once.
        devices: on which rows are shared out.
    """

    def __init__(self, program: Any, params: Any, devices: Sequence[Any], batch_size: int):
        """Puts the parameters on the devices.

        Args:
            program: of the run: its model, and the streams whose objectives predict.
            params: nested dict of arrays.
            devices: of this process.
            batch_size: see the class.
        """
        mesh = Mesh(np.reshape(np.array(devices), (-1, 1, 1)), sharding.AXES)
        place = sharding.placing(mesh)
        self.batch_size = batch_size
        self.devices = tuple(devices)
        self._params = jax.device_put(params, sharding.replicated(mesh))
        self._apply = step.make_apply(program.model, place)
        self._shapes = step.make_apply(program.model)
        self._program, self._place = program, place
        self._predictions: dict[Hashable, Callable] = {}
        self._lock = threading.Lock()

    def size(self, rows: int) -> int:
        """What a number of rows is padded to."""
        return min(1 << (rows - 1).bit_length(), self.batch_size)

    def chunks(self, rows: int) -> Iterator[slice]:
        """Slices of at most `batch_size` rows."""
        for start in range(0, rows, self.batch_size):
            yield slice(start, min(start + self.batch_size, rows))

    def ask(self, fn: Callable, batch: Mapping[str, Any]) -> Any:
        """What `fn(net, batch)` says, on the devices; rows are as many as they are."""
        with self._lock:
            return self._apply(fn, self._params, batch)

    def rows(self, fn: Callable, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What `fn(net, batch)` says of each of at most `batch_size` rows."""
        return self._cut(lambda batch: self.ask(fn, batch), rows)

    def predict(
        self,
        stream: str,
        name: str,
        rows: Mapping[str, np.ndarray],
        change: Callable[[Any], Any] | None = None,
        key: Hashable = None,
    ) -> dict[str, np.ndarray]:
        """What an objective of a stream predicts for each of at most `batch_size` rows.

        Args:
            stream, name: of the objective.
            rows: arrays of the stream's pipeline.
            change: gives the objective with other options.
            key: of the change: the same key is the same program.
        """
        key = (stream, name, key)

        def ask(batch):
            with self._lock:
                if key not in self._predictions:
                    program = self._program
                    if change is not None:
                        program = _changed(program, stream, name, change)
                    while len(self._predictions) >= _KEPT:  # the one that was asked longest ago
                        del self._predictions[next(iter(self._predictions))]
                    self._predictions[key] = step.make_predictions(program, self._place)
                self._predictions[key] = asked = self._predictions.pop(key)
                return asked(stream, name, self._params, batch)

        return self._cut(ask, rows)

    def width(self, fn: Callable, batch: Mapping[str, np.ndarray]) -> int | None:
        """Length of what `fn(net, batch)` would say of a row; None: it lacks parameters for it.

        Nothing is compiled.
        """
        try:
            found = jax.eval_shape(lambda b: self._shapes(fn, self._params, b), dict(batch))
        except flax.errors.ScopeParamNotFoundError:
            return None
        return found["feature"].shape[-1]

    def predicted(self, stream: str, name: str, rows: Mapping[str, np.ndarray]) -> frozenset[str]:
        """The names of what an objective predicts of such rows; nothing is compiled."""
        ask = functools.partial(step.make_predictions(self._program), stream, name, self._params)
        return frozenset(jax.eval_shape(ask, dict(rows)))

    def _cut(self, ask, rows):
        count = len(next(iter(rows.values())))
        found = ask(padded(rows, self.size(count)))
        return {name: np.asarray(array)[:count] for name, array in found.items()}


def _changed(program, stream, name, change):
    entry = program.streams[stream]
    objectives = {**entry.objectives, name: change(entry.objectives[name])}
    entry = dataclasses.replace(entry, objectives=objectives)
    return dataclasses.replace(program, streams={**program.streams, stream: entry})


def padded(rows: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Repeats the first row until there are `size`."""

    def pad(array):
        missing = size - len(array)
        return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array

    return {name: pad(array) for name, array in rows.items()}


def length_of(tokens: int, most: int) -> int:
    """What a text of so many tokens is padded to; `most` is the length of the longest text."""
    return min(next((size for size in _LENGTHS if size >= tokens), most), most)


def by_length(rows: Sequence[Mapping[str, np.ndarray] | None], most: int) -> dict[int, list[int]]:
    """{padded length: the rows of it}, of rows with `text_mask`; without those that are None."""
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        if row is not None:
            groups.setdefault(length_of(int(row["text_mask"].sum()), most), []).append(number)
    return groups


def stacked(
    rows: Sequence[Mapping[str, np.ndarray]], length: int, along: Sequence[str]
) -> dict[str, np.ndarray]:
    """The arrays of several rows as one each; those named in `along` are cut to `length`."""
    return {
        name: np.stack([row[name][:length] if name in along else row[name] for row in rows])
        for name in rows[0]
    }
