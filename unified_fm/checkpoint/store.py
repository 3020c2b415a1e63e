"""Checkpoints: asynchronous, atomic, verified, and restored onto whatever mesh is present.

A step directory holds five items: `params`, `train` (step, optimizer state, moving average),
`position` (of every stream), `config`, and `checksums`, one number per array, with the format's
number (`convert.formats`). Orbax makes a step visible only when it is complete, but its files carry
no checksum that it verifies; ours are computed on the device from the arrays themselves, so they
name the damaged tensor and do not depend on how it was sharded.

Beside the steps lies `metrics.json`, the evaluations of those steps: a step is saved first and
evaluated after, so that no evaluation can cost a step.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from unified_fm import choices, rules, sharding
from unified_fm.checkpoint import checksums, formats, retention
from unified_fm.checkpoint import diff as tree_diff
from unified_fm.convert.table import unflatten
from unified_fm.runtime import workdir
from unified_fm.step import TrainState

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(
        self,
        directory: Any,
        *,
        keep: int = 3,
        best: str | None = None,
        best_mode: str = "max",
        max_failures: int = 3,
        read_only: bool = False,
    ):
        """Opens the directory and removes what an interrupted save has left there.

        Args:
            directory: local or gs://; made if it is missing.
            keep: number of latest steps to keep.
            best: name of a metric; the step where it was best is kept beside the latest ones.
            best_mode: "max" or "min".
            max_failures: at so many saves failed in a row, `save` raises.
            read_only: neither makes nor removes anything.

        Raises:
            ValueError: `best_mode` is neither "max" nor "min", or `keep` is below 1.
        """
        self.directory = workdir.absolute(directory)
        self._max_failures = max_failures
        self._failures = 0
        self._unfinished = False  # whether a failed save may have left files
        self._pending: int | None = None  # the step that is being written in the background
        self._trusted: set[int] = set()  # steps that this process has read or written
        self._kept = retention.Kept(self.directory, keep=keep, best=best, best_mode=best_mode)
        self._trash = retention.Trash(None if read_only else self.directory)
        self._options = ocp.CheckpointManagerOptions(
            save_interval_steps=0 if read_only else 1,
            preservation_policy=self._kept,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
            todelete_subdir=self._trash.folder,
        )
        self._manager = self._open()

    def latest(self) -> int | None:
        """The latest complete step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The complete step where the metric `best` was best, or None if none has it."""
        return self._kept.best(self.steps())

    def steps(self) -> list[int]:
        """All complete steps, in order; a step of which a part is missing is none."""
        return self._kept.complete(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        position: Any,
        config: Mapping[str, Any],
    ) -> bool:
        """Starts saving; returns whether it was started, once the arrays are off the devices.

        A save that fails (a full disk) is reported loudly; the steps saved before stay. `step` is
        the number of steps made; `position` (of every stream) and `config` are JSON values.

        Raises:
            OSError: `max_failures` saves have failed in a row.
        """
        self.wait()
        if step in self._trusted:
            return True
        args = self._args(state, position, config)
        self._kept.written(step)
        try:
            if step in self._manager.all_steps():  # a damaged one, from before which the run began
                self._manager.delete(step)
                self._trash.empty()
            self._manager.save(step, args=args, force=True)
        except Exception as error:  # whatever the file system raises
            self._failed(step, error)
            return False
        self._pending = step
        self._trusted.add(step)
        return True

    def poll(self) -> bool:
        """Whether the save in the background has not failed so far. Raises as `save`."""
        if self._pending is None or self._manager.is_saving_in_progress():
            return True
        return self.wait()

    def safe(self, step: int) -> bool:
        """Whether this process has read `step`, or has written it to the end."""
        return step in self._trusted and step != self._pending

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps the metrics of an evaluation of `step`, and drops a step that was the best so far.

        Without the metric `best` a step is never the best. A step that is not saved has none.
        """
        self.wait()
        steps = self.steps()
        if step not in steps:
            return
        self._kept.record(step, metrics, steps)
        for surplus in sorted(set(steps) - self._kept.wanted(steps)):
            self._manager.delete(surplus)
        self._trash.empty()

    def evaluated(self, step: int) -> bool:
        """Whether an evaluation of `step` is on record."""
        return step in self._kept.metrics

    def wait(self) -> bool:
        """Waits for the save in the background; returns whether it succeeded. Raises as `save`."""
        if self._pending is None:
            return True
        step, self._pending = self._pending, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever the file system raises
            self._failed(step, error)
            return False
        self._failures = 0
        self._sweep()
        self._trash.empty()
        return True

    def close(self) -> None:
        """Waits and closes."""
        self.wait()
        self._sweep()
        self._manager.close()
        self._trash.close()

    def saved_config(self, step: int) -> dict[str, Any]:
        """The config of the run that saved `step`. Raises ValueError as `restore` does."""
        return self._read(self._complete(step), config=ocp.args.JsonRestore())["config"]

    def saved_position(self, step: int) -> dict[str, Any]:
        """The position of the streams at `step`. Raises ValueError as `restore` does."""
        return self._read(self._complete(step), position=ocp.args.JsonRestore())["position"]

    def restore(self, target: TrainState, step: int | None = None) -> tuple[TrainState, Any]:
        """Restores onto the shardings of `target`, whatever mesh the step was saved from.

        Args:
            target: `TrainState` of `jax.ShapeDtypeStruct` with shardings.
            step: a complete step; the latest when None.

        Returns:
            The state, and the position of the streams.

        Raises:
            ValueError: no such step, other arrays than the target's (with the first ten
                differences), a damaged one (with the arrays' names), or a newer format.
        """
        step = self._complete(step)
        items = _items(target)
        saved = {item: self._saved_shapes(step, item) for item in items}
        window, items["train"] = _with_saved_window(saved["train"], items["train"])
        for item, wanted in items.items():
            shapes = map(tree_diff.shapes, (saved[item], wanted))
            if lines := tree_diff.shape_differences(*shapes):
                title = f"checkpoint {self.directory / str(step)} is of another config:"
                raise ValueError(choices.listed(title, lines))
        found = self._arrays(step, items, position=ocp.args.JsonRestore())
        leaves = [
            window[name] if name in window else found["train"][name]
            for name in _items(target)["train"]
        ]
        rest = jax.tree.unflatten(jax.tree.structure(_train(target)), leaves)
        self._trusted.add(step)
        return TrainState(params=found["params"], **rest), found["position"]

    def load_params(self, step: int | None = None, *, averaged: bool = False) -> Any:
        """The parameters of `step`, or their moving average, in host memory.

        Raises:
            ValueError: as `load_params` below; the run has kept no average.
        """
        step, item = self._complete(step), "train" if averaged else "params"
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = sharding.on_mesh(self._saved_shapes(step, item), here)
        found = jax.tree.map(jax.device_get, self._arrays(step, {item: target})[item])
        if not averaged:
            return found
        names = [name for name in found if name.startswith("ema.")]
        if not names:
            raise ValueError(f"checkpoint {self.directory / str(step)} has no average (config.ema)")
        return unflatten({name[4:].replace(".", "/"): found[name] for name in names})

    def _complete(self, step):
        steps = self.steps()
        wanted = self.latest() if step is None else step
        if wanted not in steps:
            which = "" if step is None else f" of step {step}"
            raise ValueError(f"no complete checkpoint{which} in {self.directory}; found {steps}")
        return wanted

    def _open(self):
        handlers = _handlers()
        return ocp.CheckpointManager(self.directory, item_handlers=handlers, options=self._options)

    def _args(self, state, position, config):
        items = _items(state)
        arrays = {item: ocp.args.StandardSave(tree) for item, tree in items.items()}
        # Through JSON, so that what is saved is what will be read (tuples become lists).
        plain = json.loads(json.dumps({"position": position, "config": config}))
        sums = {"format": formats.FORMAT, "position": checksums.of_json(plain["position"])}
        plain["checksums"] = sums | {item: checksums.of(tree) for item, tree in items.items()}
        plain = {item: ocp.args.JsonSave(value) for item, value in plain.items()}
        return ocp.args.Composite(**arrays, **plain)

    def _sums(self, step):
        sums = self._read(step, checksums=ocp.args.JsonRestore())["checksums"]
        formats.check(f"checkpoint {self.directory / str(step)}", sums.setdefault("format", 1))
        return sums

    def _saved_shapes(self, step, item):
        version = self._sums(step)["format"]
        with self._readable(step):
            return formats.newer(self._manager.item_metadata(step)[item].tree, version)

    def _arrays(self, step, wanted, **more):
        """Items like {item: tree of shapes}, verified; whatever their format, by today's names."""
        sums = self._sums(step)
        old = {item: formats.older(tree, sums["format"]) for item, tree in wanted.items()}
        args = {item: ocp.args.StandardRestore(tree) for item, tree in old.items()}
        found = dict(self._read(step, **args, **more).items())
        for item, tree in found.items():
            checksums.verify(f"checkpoint {self.directory / str(step) / item}", tree, sums[item])
        return found | {item: formats.newer(found[item], sums["format"]) for item in wanted}

    def _read(self, step, **args):
        with self._readable(step):
            return self._manager.restore(step, args=ocp.args.Composite(**args))

    @contextlib.contextmanager
    def _readable(self, step):
        try:
            yield
        except Exception as error:  # whatever a damaged file makes the reader raise
            where = self.directory / str(step)
            raise ValueError(
                f"checkpoint {where} cannot be read, a file is damaged or missing: {error!r}"
            ) from error

    def _sweep(self):
        """Removes what threads of a failed save wrote after its files had been removed."""
        if self._unfinished and not jax.process_index():
            for path in self.directory.glob("*.orbax-checkpoint-tmp"):
                retention.remove_while_written(path)
        self._unfinished = False

    def _failed(self, step, error):
        self._failures += 1
        self._trusted.discard(step)
        self._kept.lost(step)
        text = (
            f"CHECKPOINT NOT SAVED: saving step {step} failed ({type(error).__name__}: {error}). "
            f"Failure {self._failures} of {self._max_failures} in a row; complete steps in "
            f"{self.directory}: {self.steps()}"
        )
        _log.error(text)
        # A half-written step takes the space the next one needs: a new manager removes it. Threads
        # of the failed save may still write then, and make anew what was removed: `_sweep`.
        self._manager = self._open()
        self._unfinished = True
        if self._failures >= self._max_failures:
            raise OSError(text) from error


def save_params(directory: Any, params: Any) -> None:
    """Writes a nested dict of arrays, complete or not at all, for `load_params`.

    Raises:
        ValueError: the directory, local or gs://, exists.
    """
    directory = workdir.absolute(directory)
    if directory.exists():
        raise ValueError(f"{directory} exists; parameters are not written over anything")
    params = jax.tree.map(jnp.asarray, params)
    args = ocp.args.Composite(
        params=ocp.args.StandardSave(params),
        checksums=ocp.args.JsonSave({"format": formats.FORMAT, "params": checksums.of(params)}),
    )
    with ocp.CheckpointManager(directory, item_handlers=_handlers()) as manager:
        manager.save(0, args=args)


def load_params(directory: Any, step: int | None = None) -> Any:
    """Reads a parameter tree into host memory: a nested dict of NumPy arrays.

    Args:
        directory: written by `save_params`, a run's workdir, or a run's `checkpoints` directory.
        step: of a run; the latest when None.

    Raises:
        ValueError: no checkpoint there, or a damaged one.
    """
    directory = workdir.absolute(directory)
    if (directory / "checkpoints").exists():
        directory = directory / "checkpoints"
    if not directory.exists():
        raise ValueError(f"no checkpoint: {directory} does not exist")
    return Checkpoints(directory, read_only=True).load_params(step)


def _handlers() -> dict[str, Any]:
    plain = {item: ocp.JsonCheckpointHandler() for item in ("position", "config", "checksums")}
    return plain | {item: ocp.StandardCheckpointHandler() for item in ("params", "train")}


def _items(state: TrainState) -> dict[str, Any]:
    # optax's nested tuples and empty states as a plain dict: {"opt_state.0.mu.text...": leaf}.
    train = {name.replace("/", "."): leaf for name, leaf in rules.named_leaves(_train(state))}
    return {"params": state.params, "train": train}


def _train(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "opt_state": state.opt_state,
        "ema": state.ema,
        "spikes": state.spikes,
    }


def _with_saved_window(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[dict, dict]:
    """Lets the window of gradient norms be absent from a checkpoint, or of another length there.

    It steers nothing but what counts as a spike, so it begins anew then; and a checkpoint that was
    written before there was one is still read.

    Returns:
        {name: new array} of a window that begins anew, and what is to be read: `wanted` with the
        checkpoint's own window.
    """
    here = {name: leaf for name, leaf in wanted.items() if name.startswith("spikes.")}
    there = {name: leaf for name, leaf in saved.items() if name.startswith("spikes.")}
    if {n: x.shape for n, x in here.items()} == {n: tuple(x.shape) for n, x in there.items()}:
        return {}, dict(wanted)
    if here:
        _log.info("the window of gradient norms begins anew: the checkpoint has none of its length")
    new = {name: _zeros(leaf) for name, leaf in here.items()}
    place = wanted["step"].sharding
    read = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for n, x in there.items()}
    return new, {name: leaf for name, leaf in wanted.items() if name not in here} | read


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    zeros = np.zeros(leaf.shape, leaf.dtype)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: zeros[index])
