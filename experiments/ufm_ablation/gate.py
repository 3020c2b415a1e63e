"""The gate of the UFM ablation: size, length, rates and weights, on seeds that nothing else has.

    tools/env.sh python -m experiments.ufm_ablation.gate --workdir=runs/ufm_gate

Tries sizes and lengths, the cheapest first, each at three rates, until a stream passes both of its
conditions; then ratios of static weights, and what the linear probes are worth. Writes gate.json,
which `run.py` reads. Goes on where it was interrupted; `--until=N` ends after N candidates.
"""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import bigram, grid, workers
from experiments.ufm_ablation import arms as students
from experiments.ufm_ablation import outcome
from experiments.ufm_ablation.conclusions import LOSSES, NATS, PROBES, SEPARATE
from unified_fm import files
from unified_fm.config import file as config_file
from unified_fm.runtime import workdir as workdirs

SEEDS = (100, 101, 102)
SIZES = ((24, 2), (32, 2), (48, 3))  # width, layers
STEPS = (1500, 4500, 9000)
RATES = outcome.TRIED
RATIOS = (2, 4, 8, 16)  # of the static weights, text to image
FALL = 0.02  # nats that images may still gain in the last fifth of the steps
SURE = 3.0  # standard deviations of paired differences

Found = Mapping[str, Any]  # what a results.json holds


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A size and a length."""

    width: int
    layers: int
    steps: int

    @property
    def cost(self) -> int:
        """Of a run, relative to others."""
        return self.width * self.layers * self.steps

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"width{self.width}-layers{self.layers}-steps{self.steps}"

    @property
    def changes(self) -> list[str]:
        """Of the config."""
        return outcome.changes(self.width, self.layers, self.steps)


CANDIDATES = sorted((Candidate(*s, n) for s in SIZES for n in STEPS), key=lambda c: c.cost)


def losses(found: Found, arm: str, stream: str) -> np.ndarray:
    """Held-out cross-entropy f64[seeds] of an arm, in the order of the seeds."""
    return _scores(found, arm, LOSSES[stream])


def best_rates(by_rate: Mapping[float, Found]) -> dict[str, float]:
    """{"vit", "bert", "joint": the rate of the smallest mean loss}; of `joint` the sum of both."""

    def least(*asked):
        return min(by_rate, key=lambda r: sum(losses(by_rate[r], *a).mean() for a in asked))

    own = {"vit": least(("vit_only", "image")), "bert": least(("bert_only", "text"))}
    return own | {"joint": least(("joint", "image"), ("joint", "text"))}


def deficits(by_rate: Mapping[float, Found], rates: Mapping[str, float]) -> dict[str, np.ndarray]:
    """{stream: loss of `joint` minus that of separate training, f64[seeds]}, each at its rate."""
    joint = by_rate[rates["joint"]]
    alone = {"image": by_rate[rates["vit"]], "text": by_rate[rates["bert"]]}
    return {
        stream: losses(joint, "joint", stream) - losses(alone[stream], SEPARATE[stream], stream)
        for stream in LOSSES
    }


def fall(found: Found) -> float:
    """Nats that `vit_only` gains over the last fifth of its steps, by the loss of its training."""
    entries = found["arms"]["vit_only"]["seeds"].values()
    curve = np.mean([entry["curves"]["image/classify"] for entry in entries], axis=0)
    fifth = len(curve) // 5
    width = max(1, fifth // 5)  # a point alone is a mean of few batches
    start = curve[-fifth - width : -fifth].mean()
    return float(start - curve[-width:].mean())


def judged(candidate: Candidate, by_rate: Mapping[float, Found], bigram: float) -> dict[str, Any]:
    """What the gate says of a candidate, and why.

    A stream passes if joint training loses at least `SURE` standard deviations of the paired
    differences; images must have come to their end, too. Words above the floor of a bigram model
    do not fail: the run is labelled, as they may not be reachable.
    """
    rates = best_rates(by_rate)
    text = losses(by_rate[rates["bert"]], "bert_only", "text").mean()
    falls, lost = fall(by_rate[rates["vit"]]), deficits(by_rate, rates)
    sure = {s: bool(d.mean() >= SURE * d.std(ddof=1) and d.mean() > 0) for s, d in lost.items()}
    return {
        **dataclasses.asdict(candidate),
        "rates": rates,
        "bert_only": float(text),
        "optimisation_limited": bool(text >= bigram),
        "fall": falls,
        "deficits": {s: [float(x) for x in d] for s, d in lost.items()},
        "passes": {"text": sure["text"], "image": sure["image"] and falls < FALL},
    }


def chosen(judgements: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The cheapest candidate that most streams pass; without one the cheapest, and neither passes.

    Raises:
        ValueError: no candidate.
    """
    return max(judgements, key=lambda j: sum(j["passes"].values()))  # of equals the first


def complete(judgements: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no further candidate can be chosen: both streams pass one."""
    return any(all(j["passes"].values()) for j in judgements)


def best_ratio(by_ratio: Mapping[float, Found], joint: Found, passes: Mapping[str, bool]) -> float:
    """Of the static weights: the smallest loss on the streams that pass, of none on both.

    Left out are those that pay for it with more than `NATS` on another stream, unless all do. What
    joint training loses stands on the streams that pass; on another one, noise would choose.
    """
    asked = [stream for stream in LOSSES if passes[stream]] or list(LOSSES)

    def mean(found, arm, stream):
        return losses(found, arm, stream).mean()

    def spares(found):
        others = (stream for stream in LOSSES if stream not in asked)
        return all(mean(found, "joint_static", s) <= mean(joint, "joint", s) + NATS for s in others)

    allowed = [ratio for ratio, found in by_ratio.items() if spares(found)] or list(by_ratio)
    return min(allowed, key=lambda r: sum(mean(by_ratio[r], "joint_static", s) for s in asked))


def probes(found: Found) -> dict[str, dict[str, Any]]:
    """{metric of a linear probe: separate minus scratch, and whether it counts}."""
    said = {}
    for metric in PROBES:
        arm = SEPARATE["text" if metric.startswith("topics") else "image"]
        gain = _scores(found, arm, metric) - _scores(found, "scratch", metric)
        counts = bool(gain.mean() >= SURE * gain.std(ddof=1) and gain.mean() > 0)
        said[metric] = {"gains": [float(x) for x in gain], "counts": counts}
    return said


def _scores(found: Found, arm: str, metric: str) -> np.ndarray:
    seeds = found["arms"][arm]["seeds"]
    return np.array([seeds[str(seed)]["scores"][metric] for seed in SEEDS])


def _commits(*found: Found) -> set[str]:
    entries = (e for each in found for arm in each["arms"].values() for e in arm["seeds"].values())
    return {entry["commit"] for entry in entries}


def _unread() -> list[str]:
    """Paths of the evaluators that say nothing about the losses, which rates are chosen by."""
    kept = {metric.split("/")[0] for metric in LOSSES.values()}
    asked = config_file.load(students.CONFIG).evaluate.evaluators
    return [f"evaluate.evaluators.{name}" for name in asked if name not in kept]


class Gate:
    """Runs what the rules above ask for, each candidate in a folder of its own."""

    def __init__(self, workdir: Path, jobs: int):
        self._workdir, self._jobs = workdir, jobs
        self._tried: list[Found] = []  # results of the candidates

    def cells(
        self,
        candidate: Candidate,
        rate: float,
        arms: Sequence[str],
        *,
        ratio: float | None = None,
        probed: bool = False,
    ) -> Found:
        """The results of some arms of a candidate at a rate; those of `ratio` and probes apart."""
        known = students.arms(**({} if ratio is None else {"static": ratio}))
        changes = [*candidate.changes, f"optimizer.lr={rate}"]
        gone = [] if probed else _unread()
        changes += [f"{path}=None" for path in gone]
        name = f"{candidate.name}/rate{rate}" + ("" if ratio is None else f"-ratio{ratio}")
        folder = self._workdir / (name + ("-probes" if probed else ""))
        folder.mkdir(parents=True, exist_ok=True)
        return grid.Grid(
            spec=students.CONFIG,
            arms={arm: {k: v for k, v in known[arm].items() if k not in gone} for arm in arms},
            seeds=SEEDS,
            common=changes,
            jobs=self._jobs,
            batches=self._workdir / "batches",
        ).run(folder)

    def try_candidates(self, bigram: float, until: int) -> list[dict[str, Any]]:
        """Judges the first candidates, the cheapest first, until no other can be chosen."""
        judgements: list[dict[str, Any]] = []
        for candidate in CANDIDATES[:until]:
            by_rate = {r: self.cells(candidate, r, ["joint", *SEPARATE.values()]) for r in RATES}
            self._tried += by_rate.values()
            judgements.append(judged(candidate, by_rate, bigram))
            logging.info("%s: %s", candidate.name, json.dumps(judgements[-1]))
            if complete(judgements):
                break
        return judgements

    def outcome(self, bigram: float, until: int) -> dict[str, Any]:
        """All that gate.json holds."""
        judgements = self.try_candidates(bigram, until)
        best = chosen(judgements)
        candidate = Candidate(best["width"], best["layers"], best["steps"])
        rates = best["rates"]
        joint = self.cells(candidate, rates["joint"], ["joint", *SEPARATE.values()])
        by_ratio = {
            ratio: self.cells(candidate, rates["joint"], ["joint_static"], ratio=ratio)
            for ratio in RATIOS
        }
        asked: dict[str, Any] = {"arms": {}}
        for who, arm in (("vit", "vit_only"), ("bert", "bert_only")):
            found = self.cells(candidate, rates[who], [arm, "scratch"], probed=True)
            asked["arms"] |= found["arms"]
        return {
            **{key: best[key] for key in ("width", "layers", "steps", "rates", "passes")},
            "static_ratio": best_ratio(by_ratio, joint, best["passes"]),
            "static_losses": {
                str(r): {s: float(losses(f, "joint_static", s).mean()) for s in LOSSES}
                for r, f in by_ratio.items()
            },
            "optimisation_limited": best["optimisation_limited"],
            "bigram": bigram,
            "probes": probes(asked),
            "candidates": judgements,
            "of": len(CANDIDATES),
            "seeds": list(SEEDS),
            "commits": sorted(_commits(asked, *by_ratio.values(), *self._tried)),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/ufm_gate"))
    parser.add_argument("--out", type=Path, default=outcome.PATH, help="(default: %(default)s)")
    parser.add_argument("--until", type=int, default=len(CANDIDATES), help="candidates at most")
    workers.add_argument(parser)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("unified_fm").setLevel(logging.WARNING)
    try:
        options.workdir.mkdir(parents=True, exist_ok=True)
        with workdirs.lock(options.workdir):
            floor = bigram.floor(config_file.load(students.CONFIG))
            found = Gate(options.workdir, options.jobs).outcome(floor, options.until)
            files.write_whole(options.out, json.dumps(found, indent=1) + "\n")
    except (ValueError, workdirs.Locked) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
