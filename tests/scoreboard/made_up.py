"""Cells that nobody trained: predictions made up by a seed, for tests."""

import json
import pathlib

import numpy as np

from unified_fm.scoreboard.cell import Cell, Finished, Hashes

N = 200  # test examples


def lines(share: float, seed: int = 0, n: int = N) -> list[dict]:
    """Predictions of classes, of which about that share is right; easy ones first."""
    hard = np.linspace(0, 1, n) + np.random.default_rng(seed).normal(0, 0.1, n)
    right = np.argsort(np.argsort(hard, kind="stable"), kind="stable") < share * n
    return [
        {"id": k, "prediction": f"c{(k + (not right[k])) % 4}", "truth": f"c{k % 4}"}
        for k in range(n)
    ]


def finished(arm: str, share: float, seed: int = 0, config: str = "finetune/x", **more) -> Finished:
    init = "runs/x" if arm == "pre-trained" else ""
    return Finished(
        cell=Cell(task="animals", arm=arm, config=config, seed=seed, init=init),
        hashes=Hashes(
            config=config if arm == "trivial" else "c0ffee",
            data="da7a",
            checkpoint="abc" if init else "",
        ),
        lines=more.pop("lines", None) or lines(share, seed),
        seconds=2.5,
        **more,
    )


class Trainer:
    """In the place of `unified_fm.main.main`: writes the predictions that a run would.

    Attributes:
        asked: the workdirs of all calls, in their order.
    """

    def __init__(self, stop_at: int | None = None, status: int = 143):
        self.asked: list[str] = []
        self._stop_at, self._status = stop_at, status

    def __call__(self, arguments) -> int:
        options = dict(text.removeprefix("--").partition("=")[::2] for text in arguments[1:])
        workdir = pathlib.Path(options["workdir"])
        self.asked.append(workdir.name)
        (workdir / "predictions").mkdir(parents=True, exist_ok=True)
        if len(self.asked) == self._stop_at:
            return self._status
        started = 0.5 if options["config.init.path"] == "scratch" else 0.8
        few = 0.1 if options["config.streams.task.source"].startswith("few:") else 0.0
        seed = int(options["config.seed"])
        test = options["config.evaluate.evaluators.test.source"].removeprefix("jsonl:")
        n = len(pathlib.Path(test).read_text().splitlines())
        for step in (10, 200):  # of two evaluations the last counts
            share = started - few if step == 200 else 0.0
            text = "".join(json.dumps(line) + "\n" for line in lines(share, seed, n))
            (workdir / "predictions" / f"test-{step}.jsonl").write_text(text)
            (workdir / "predictions" / f"test-{step}.json").write_text('{"notes": []}')
        return 0
