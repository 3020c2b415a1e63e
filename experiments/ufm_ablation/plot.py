"""The figure: every arm and seed, metric by metric, beside separate training."""

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from experiments.ufm_ablation.conclusions import METRICS, Metric, Scores
from experiments.ufm_ablation.statistics import interval
from unified_fm import files

# Okabe and Ito's colours, which people with any colour vision can tell apart.
_BLACK, _BLUE, _ORANGE, _GREEN, _PURPLE, _GREY = (
    *("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#7F7F7F"),
)
FAMILIES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {  # label: (colour, marker, arms)
    "no pre-training": (_GREY, "x", ("scratch",)),
    "separate": (_BLACK, "s", ("vit_only", "bert_only")),
    "joint sum": (_BLUE, "o", ("joint",)),
    "teachers": (_ORANGE, "D", ("joint_kd",)),
    "gradient masking": (_GREEN, "o", ("joint_igm", "joint_kd_igm")),
    "controls of masking": (_GREEN, "v", ("joint_igm_random", "joint_igm_swapped")),
    "other merges": (
        *(_PURPLE, "P"),
        ("joint_pcgrad", "joint_static_image", "joint_static_text"),
    ),
}


def draw(file: Path, scores: Scores) -> None:
    """Writes the figure as PNG, whole or not at all."""
    arms = [a for _, _, members in FAMILIES.values() for a in members if a in scores]
    figure = Figure(figsize=(13, 5.8), layout="constrained")
    axes = figure.subplots(1, len(METRICS), sharey=True)
    for axis, (key, metric) in zip(axes, METRICS.items(), strict=True):
        _panel(axis, key, metric, arms, scores)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    seeds = len(next(iter(scores["joint"].values())))
    figure.suptitle(
        f"UFM ablation: mean and 95 % interval of {seeds} seeds (small dots: the seeds)"
    )
    handles, labels = {}, []
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = [label for label in (*FAMILIES, _LINE) if label in handles]
    figure.legend([handles[x] for x in labels], labels, loc="outside lower center", ncols=4)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    files.write_whole(file, buffer.getvalue())


_LINE = "mean of separate training"


def _panel(axis, key: str, metric: Metric, arms, scores: Scores) -> None:
    scale = 100 if metric.unit == "%" else 1
    separate = interval(scores[metric.separate][key])
    axis.axvspan(scale * separate.low, scale * separate.high, color=_BLACK, alpha=0.08, lw=0)
    axis.axvline(scale * separate.mean, color=_BLACK, lw=1, ls="--", label=_LINE)
    for label, (colour, marker, members) in FAMILIES.items():
        for arm in members:
            if arm not in scores or key not in scores[arm]:
                continue
            row, found = arms.index(arm), interval(scores[arm][key])
            values = [scale * x for x in scores[arm][key]]
            axis.plot(values, [row] * len(values), ".", color=colour, alpha=0.4, ms=5)
            axis.errorbar(
                *(scale * found.mean, row),
                xerr=scale * (found.high - found.mean),
                **dict(fmt=marker, color=colour, ms=7, capsize=3, lw=1.5, label=label),
            )
    axis.set_title(f"{metric.title}\n({metric.better} is better)", fontsize=10)
    axis.set_xlabel("% correct" if metric.unit == "%" else "nats")
    axis.grid(axis="x", alpha=0.3)
