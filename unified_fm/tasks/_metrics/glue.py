"""GLUE's metrics, by task; the first one of `measures` is the number that stands for the task.

CoLA: Matthews' correlation; SST-2, MNLI, QNLI, RTE, WNLI: accuracy; MRPC, QQP: mean of accuracy and
F1 of the positive class; STS-B: mean of Pearson's r and Spearman's rho. Labels are words ("1",
"entailment", "duplicate"), never places in a list: the order of MNLI's classes differs between
libraries.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from unified_fm import choices
from unified_fm.tasks._metrics import classification, correlation, statistic
from unified_fm.tasks._metrics.statistic import Statistic

# Task -> its metrics, the one that stands for it first. By the names that TFDS uses.
METRICS: Mapping[str, Sequence[str]] = {
    "cola": ("matthews",),
    "sst2": ("accuracy",),
    "mrpc": ("mean", "accuracy", "f1"),
    "qqp": ("mean", "accuracy", "f1"),
    "stsb": ("mean", "pearson", "spearman"),
    "mnli": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}
# X-FM's "language average" leaves WNLI out, and prints Pearson's r and the mean of MNLI m and mm.
AVERAGED = tuple(task for task in METRICS if task != "wnli")


def measures(
    task: str, predictions: Sequence, truth: Sequence, *, positive: Hashable = "1"
) -> dict[str, Statistic]:
    """The metrics of a task, the headline first.

    Args:
        task: one of `METRICS`.
        predictions, truth: a label of each example, written alike; numbers for "stsb".
        positive: the label whose F1 is meant, and which is CoLA's "acceptable".

    Raises:
        ValueError: an unknown task, or other numbers of predictions than of examples.
    """
    choices.check("GLUE task", task, METRICS)
    if task == "stsb":
        found = {
            "pearson": correlation.pearson(predictions, truth),
            "spearman": correlation.spearman(predictions, truth),
        }
    elif task == "cola":
        found = {"matthews": classification.matthews(predictions, truth, positive)}
    else:
        found = {"accuracy": classification.accuracy(predictions, truth)}
        if "f1" in METRICS[task]:
            found["f1"] = classification.f1(predictions, truth, positive)
    if "mean" in METRICS[task]:
        found["mean"] = statistic.average(list(found.values()))
    return {name: found[name] for name in METRICS[task]}


def metrics(
    task: str, predictions: Sequence, truth: Sequence, *, positive: Hashable = "1"
) -> dict[str, float]:
    """The numbers of `measures`, each 0 to 1 (correlations -1 to 1)."""
    return statistic.values(measures(task, predictions, truth, positive=positive))


def chance(task: str, truth: Sequence, *, positive: Hashable = "1") -> dict[str, float]:
    """What the best constant prediction reaches, metric by metric."""
    if task == "stsb":
        return dict.fromkeys(METRICS[task], 0.0)
    label, _ = classification.majority(truth)
    guesses = [metrics(task, [g] * len(truth), truth, positive=positive) for g in (label, positive)]
    return {name: max(guess[name] for guess in guesses) for name in METRICS[task]}


def notes(task: str, predictions: Sequence) -> list[str]:
    """What to say beside the numbers: constant predictions have no correlation."""
    if task == "stsb" and correlation.constant(predictions):
        return ["the predictions are constant or not finite: their correlation is taken as 0"]
    if task == "cola" and len(set(predictions)) == 1:
        return ["the predictions are constant: Matthews' correlation is 0"]
    return []


def overall(headlines: Mapping[str, float]) -> float:
    """GLUE's average: the mean over tasks of each task's mean metric.

    MNLI's two development sets are given as "mnli_matched" and "mnli_mismatched", and count as one.
    """
    found = dict(headlines)
    pair = [found.pop(name) for name in ("mnli_matched", "mnli_mismatched") if name in found]
    if pair:
        found["mnli"] = float(np.mean(pair))
    return float(np.mean(list(found.values())))
