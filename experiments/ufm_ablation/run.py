"""The UFM ablation: teachers, arms, fine-tuning, table, plot and conclusions, by one command.

    tools/env.sh python -m experiments.ufm_ablation.run --workdir=runs/ufm_ablation

An arm that is finished is kept and not run again, so the same command goes on after an interruption
and a second one beside it takes other arms. `--publish` copies the outcome beside README.md;
`--rewrite` writes table and sentences there anew from results.json, and runs nothing. Every
number of `sizes.py` is a flag (`--width=64`); with `--arms` some arms alone, as in the pilot.
"""

import argparse
import dataclasses
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.ufm_ablation import arms, corpus, finetune, outcome, pretrain, sizes, store
from experiments.ufm_ablation.corpus import Corpus
from experiments.ufm_ablation.sizes import Sizes
from unified_fm.models import ufm
from unified_fm.runtime import workdir as workdirs

NAMES = ("scratch", *arms.ARMS)


class Experiment:
    """One run of the experiment in a workdir; parts that are there are not made again."""

    def __init__(
        self,
        workdir: Path,
        chosen: Sizes,
        *,
        load: Callable[[Sizes], Corpus] = corpus.load,
        mapping: str = "auto",
    ):
        """Takes the folder, the sizes, what loads the data, and `learner.over_seeds`' mapping."""
        self._workdir, self._sizes, self._mapping = workdir, chosen, mapping
        self._load, self._made = load, {}
        self._commit = commit()  # now: files may change while it runs, the code does not
        self.trained: list[str] = []  # what this run has trained itself

    def run(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Makes the arms that are missing; returns {arm: result} of those that are there.

        An arm that another process is making is left to it.

        Raises:
            ValueError: the folder has results of other settings.
        """
        done = {name: store.result(self._workdir / name, self._settings(name)) for name in names}
        missing = [name for name in names if done[name] is None]
        if missing:
            logging.info("%d examples of text", len(self._data.texts["train"]["text_mask"]))
        units, spent = sum(map(_cost, missing)), 0.0
        for number, name in enumerate(missing):
            try:
                with workdirs.lock(self._workdir / name):
                    started = time.monotonic()
                    done[name] = self._arm(name)
            except workdirs.Locked:
                logging.info("%s is being made by another process", name)
                continue
            spent += time.monotonic() - started
            left = units - sum(map(_cost, missing[: number + 1]))
            rate = spent / max(units - left, 1)
            logging.info(
                "%d of %d arms: %s took %.0f s; about %.0f min left",
                *(number + 1, len(missing), name, time.monotonic() - started, left * rate / 60),
            )
            means = {key: round(float(np.mean(x)), 4) for key, x in done[name]["scores"].items()}
            logging.info("%s: %s", name, means)
        return {name: found for name, found in done.items() if found is not None}

    def teachers(self) -> dict[str, dict[str, Any]]:
        """{teacher: result}, trained if need be, with what they say about the data beside them."""
        found = {}
        for name in pretrain.TEACHERS:
            folder = self._workdir / "teachers" / name
            settings = self._settings(name)
            with workdirs.lock(folder):
                found[name] = store.result(folder, settings)
                if found[name] is None:
                    started = time.monotonic()
                    params, scores = pretrain.train_teacher(name, self._sizes, self._data)
                    self.trained.append(name)
                    seconds = time.monotonic() - started
                    store.keep(folder, params, self._result(scores, seconds), settings)
                    found[name] = store.result(folder, settings)
                if not self._cache(name).exists():
                    params = store.params(folder)
                    pretrain.write_cache(self._cache(name), name, params, self._sizes, self._data)
        return found

    def floors(self) -> Mapping[str, float]:
        """What guesses without looking reach."""
        return self._data.floors

    def _arm(self, name: str) -> dict[str, Any]:
        folder, settings = self._workdir / name, self._settings(name)
        if (found := store.result(folder, settings)) is not None:  # another process made it
            return found
        started = time.monotonic()
        params, scores, logs, streams = None, {}, {}, pretrain.STREAMS
        if name in arms.ARMS:
            arm = arms.ARMS[name]
            if arm.distil:
                self.teachers()
            caches = {teacher: self._cache(teacher) for teacher in pretrain.TEACHERS}
            common = (self._sizes, self._data)
            first = self._once(
                arm.streams, lambda: pretrain.start(arm.streams, *common, self._mapping)
            )
            made = pretrain.train_arm(name, first, *common, caches, self._mapping)
            params, logs, streams = made.params, made.logs, arm.streams
            scores |= self._measures(params, streams)
        trained = time.monotonic() - started
        for task, stream in finetune.TASKS.items():
            if stream in streams:
                scores[task] = self._tuner(task).run(params)
        self.trained.append(name)
        found = self._result(scores, time.monotonic() - started, trained, logs)
        store.keep(folder, params or {}, found, settings)
        return store.result(folder, settings)

    def _result(self, scores, seconds, pretraining=0.0, logs=()) -> dict[str, Any]:
        return {
            "scores": {key: np.asarray(values).tolist() for key, values in scores.items()},
            "seconds": round(seconds, 1),
            "seconds_of_pretraining": round(pretraining, 1),
            "training": dict(logs),
            "commit": self._commit,
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "jax": jax.__version__,
        }

    def _settings(self, name: str) -> dict[str, Any]:
        arm = arms.ARMS.get(name)
        found = dataclasses.asdict(self._sizes) | ({"arm": dataclasses.asdict(arm)} if arm else {})
        return found | ({"rest": arms.REST} if arm and arm.distil else {})

    def _cache(self, teacher: str) -> Path:
        return self._workdir / "teachers" / f"{teacher}_says"

    @property
    def _data(self) -> Corpus:
        return self._once("data", lambda: self._load(self._sizes))

    @property
    def _measures(self) -> pretrain.Measures:
        def make():
            model = ufm.Model(**arms.student(self._sizes, self._data))
            return pretrain.Measures(model, self._data, self._mapping)

        return self._once("measures", make)

    def _tuner(self, task: str) -> finetune.Tuner:
        return self._once(
            task,
            lambda: finetune.Tuner(task, self._sizes, self._data, mapping=self._mapping),
        )

    def _once(self, key, make):
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.rewrite:
        outcome.rewrite()
        return 0
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    changes = {key: getattr(options, key) for key in _FIELDS if getattr(options, key) is not None}
    try:
        experiment = Experiment(
            options.workdir, sizes.of_budget(options.budget, changes), mapping=options.mapping
        )
        results = experiment.run(options.arms)
        outcome.write(options.workdir, results, experiment)
        if options.publish:
            outcome.publish(options.workdir, [*sys.argv[1:]] if arguments is None else arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def commit() -> str:
    """The commit of the code; with "+changes" if files that matter differ from it."""
    here = Path(__file__).parent

    def git(*command):
        return subprocess.run(
            ["git", *command], cwd=here, capture_output=True, text=True, check=False
        ).stdout.strip()

    code = ("..", "../../unified_fm", ":(exclude)../**/*.md", ":(exclude)results")
    dirty = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+changes" if dirty else "")


def _cost(name: str) -> int:
    """Relative cost of an arm: the streams of its steps, and something for fine-tuning."""
    return 1 + 4 * len(arms.ARMS[name].streams) if name in arms.ARMS else 1


_FIELDS = {field.name: field for field in dataclasses.fields(Sizes)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/ufm_ablation"))
    parser.add_argument("--budget", default="full", choices=sizes.BUDGETS)
    parser.add_argument(
        "--arms", nargs="+", default=NAMES, choices=NAMES, metavar="ARM", help=" ".join(NAMES)
    )
    parser.add_argument("--mapping", default="auto", help="of the seeds: auto, vmap or map")
    parser.add_argument("--publish", action="store_true", help="copy the outcome beside README.md")
    parser.add_argument(
        "--rewrite", action="store_true", help="only write the published sentences anew"
    )
    group = parser.add_argument_group("sizes (see sizes.py)")
    for name, field in _FIELDS.items():
        group.add_argument(f"--{name}", type=field.type, metavar=str(field.default))
    return parser


if __name__ == "__main__":
    sys.exit(main())
