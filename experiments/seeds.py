"""Several runs that differ in their seed, trained in one compiled step.

Each of them is a complete run of the library, which `unified_fm.train` would make alone: its start,
its teachers, the order of its data and its draws are its own. Only the step is shared, mapped over
a leading axis S of the runs, so at this size a group of seeds takes little longer than one.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import setup
from unified_fm.config.settings import Settings
from unified_fm.evaluation import Evaluation
from unified_fm.runtime.interruption import Interruption
from unified_fm.runtime.watchdog import Watchdog


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What `train` made of S runs.

    Attributes:
        ready: of each run.
        params: f32[S ...].
        teachers: {teacher: its parameters f[S ...]}.
        curves: {"stream/objective": f32[S points]}, each point the mean over a part of the steps.
        refused: steps of each run whose loss or gradient was not finite, i64[S].
    """

    ready: Sequence[setup.Prepared]
    params: Any
    teachers: Any
    curves: dict[str, np.ndarray]
    refused: np.ndarray

    def evaluate(self, workdir: Path) -> tuple[list[dict[str, float]], dict[str, float]]:
        """What the runs' evaluators find of each, {metric: value}, and {metric: what a guess gets}.

        All runs are shown the same examples. How often test data was looked at is noted in the
        workdir.
        """
        evaluation = Evaluation(self.ready[0], workdir, Watchdog(Interruption(), minutes=0))
        scores = [
            evaluation.run(_of_run(self.params, i), teacher_params=_of_run(self.teachers, i))
            for i in range(len(self.ready))
        ]
        metrics = evaluation.results.metrics
        return scores, {m.name: m.chance for m in metrics if m.chance is not None}


def of_seed(settings: Settings, seed: int) -> Settings:
    """The run of a seed; a merge whose options name a `seed` of its own draws by this one too."""
    merge = {**settings.merge, "seed": seed} if "seed" in settings.merge else settings.merge
    return settings.replace(seed=seed, merge=merge)


def train(
    runs: Sequence[Settings],
    *,
    mapping: str = "auto",
    points: int = 50,
    progress: Callable[[int], None] = lambda step: None,
    open_streams: Callable[[setup.Prepared], Any] = setup.Prepared.open_streams,
) -> Trained:
    """Trains all runs to their end, from their first step.

    Args:
        runs: settings that differ in `of_seed` and in the paths of teachers alone.
        mapping: "vmap"; "map", one run after the other inside the program; or "auto": "map" on a
            CPU, where a batched product of small matrices fills the caches no better.
        points: of the curves.
        progress: called with the number of each step that is made.
        open_streams: an iterator over the batches of a run, with `close`.

    Raises:
        ValueError: runs that differ in more.
    """
    _check_alike(runs)
    ready = [setup.prepare(run, devices=jax.devices()[:1]) for run in runs]
    taught = [each.load_teachers() for each in ready]
    state = _stacked([each.fresh_state(t) for each, t in zip(ready, taught, strict=True)])
    seeds, teachers = jnp.array([run.seed for run in runs]), _stacked(taught)
    losses = [f"{s}/{name}" for s, entry in runs[0].streams.items() for name in entry.objectives]

    def one(seed, state, teachers, batches):
        return ready[0].plain_step(seed)(state, teachers, batches)

    step, refresh = jax.jit(_over_runs(one, mapping), donate_argnums=1), ready[0].refresh
    history = []
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(contextlib.closing(open_streams(e))) for e in ready]
        for number in range(ready[0].steps.total):
            if refresh is not None and refresh.is_due(number):
                again = jax.vmap(lambda opt_state, n=number: refresh(opt_state, n))
                state = state.replace(opt_state=again(state.opt_state))
            batches = jax.tree.map(lambda *rows: np.stack(rows), *map(next, streams))
            state, metrics = step(seeds, state, teachers, batches)
            history.append({name: metrics[name] for name in ("ok", *losses)})
            progress(number + 1)
    logs = {
        key: np.stack([row[key] for row in jax.device_get(history)], axis=1) for key in history[0]
    }
    return Trained(
        ready=ready,
        params=state.params,
        teachers=teachers,
        curves={name: _means(logs[name], points) for name in losses},
        refused=(logs["ok"] == 0).sum(axis=1),
    )


def _over_runs(function: Callable, mapping: str) -> Callable:
    """`function` of one run as one of stacked runs; every argument has the axis S."""
    if mapping == "auto":
        mapping = "map" if jax.default_backend() == "cpu" else "vmap"
    if mapping == "vmap":
        return jax.vmap(function)
    return lambda *arguments: jax.lax.map(lambda each: function(*each), arguments)


def _check_alike(runs: Sequence[Settings]) -> None:
    def rest(run):
        found = of_seed(run, 0).plain()
        places = ("path", "config")
        of = found["teachers"].items()
        return found | {"teachers": {t: {k: e[k] for k in e if k not in places} for t, e in of}}

    first = rest(runs[0])
    for run in runs[1:]:
        other = [key for key, value in rest(run).items() if value != first[key]]
        if other:
            raise ValueError(f"runs of one step differ in their seed alone, found: {other}")


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _of_run(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _means(values: np.ndarray, points: int) -> np.ndarray:
    parts = np.array_split(values, min(points, values.shape[1]), axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)
