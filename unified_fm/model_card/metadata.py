"""The YAML at the head of a model card, by the records of huggingface_hub; no network is asked."""

import re
from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from unified_fm.model_card.about import LIBRARY, About
from unified_fm.model_card.evaluated import Evaluated
from unified_fm.scoreboard.row import Row, Value

# Pipeline or config of a task -> what the Hub calls it; what is not here has no name there.
HUB_TASKS = {
    "glue": "text-classification",
    "image_classification": "image-classification",
    "vqa": "visual-question-answering",
    "vqa_generation": "visual-question-answering",
    "captioning": "image-to-text",
    "refcoco": "zero-shot-object-detection",
}
# Of what has no task of its own: the first method that works decides.
_BY_METHOD = {
    "similarity": "zero-shot-image-classification",
    "fill_mask": "fill-mask",
    "encode_image": "image-feature-extraction",
    "encode_text": "feature-extraction",
}
_EXPORTED = {
    "hf-bert": "fill-mask",
    "hf-roberta": "fill-mask",
    "hf-vit": "image-feature-extraction",
    "hf-beit": "image-feature-extraction",
    "hf-clip": "zero-shot-image-classification",
}


def front_matter(about: About) -> ModelCardData:
    """Licence, library, task, tags, data sets and the results as `model-index`."""
    results = [*_own(about), *_fine_tuned(about)]
    model = str(about.info["model"])
    tags = [LIBRARY, *(() if about.library == LIBRARY else (about.library,)), "jax", model]
    return ModelCardData(
        license=about.license,
        language=about.language or None,
        library_name=about.library,
        pipeline_tag=pipeline_tag(about),
        tags=list(dict.fromkeys([*tags, *about.pipelines])),
        datasets=list(dict.fromkeys(name for used in about.used for name in used.names)) or None,
        eval_results=results or None,
        model_name=about.name,
    )


def pipeline_tag(about: About) -> str | None:
    """What the Hub calls the model's task; None where it has no name for it."""
    if about.exported:
        classes = about.info.get("classes")
        return "image-classification" if classes else _EXPORTED.get(about.exported)
    for pipeline in about.pipelines:
        if pipeline in HUB_TASKS:
            return HUB_TASKS[pipeline]
    works = about.info.get("tasks", ())
    return next((tag for method, tag in _BY_METHOD.items() if method in works), None)


def _own(about: About) -> Iterator[EvalResult]:
    """What the run has measured of itself."""
    family = next(iter(about.pipelines), "other")
    for one in about.evaluated:
        yield EvalResult(
            task_type=HUB_TASKS.get(family, family),
            task_name=family,
            dataset_type=_identifier(one.source),
            dataset_name=one.source,
            metric_type=_metric(one.metric),
            metric_name=_words(one.metric, one.value, ""),
            metric_value=one.value.value,
            metric_args=_beside(one.value, one),
        )


def _fine_tuned(about: About) -> Iterator[EvalResult]:
    """What was reached by fine-tuning from these parameters: rows of the scoreboard."""
    for row in about.measured_rows:
        value = row.pre_trained
        assert value is not None
        labels = f", {row.labels} labels" if row.labels else ""
        yield EvalResult(
            task_type=about.hub_tasks.get(row.task, "other"),
            task_name=f"{row.task}, fine-tuned from this checkpoint{labels}",
            dataset_type=_identifier(row.task),
            dataset_name=f"{row.task}{labels}",
            dataset_config=f"labels-{row.labels}" if row.labels else None,
            dataset_split=row.split,
            metric_type=_metric(row.metric),
            metric_name=_words(row.metric, value, f", mean of {len(value.seeds)} seeds"),
            metric_value=value.value,
            metric_args=_beside(value, row),
        )


def _identifier(text: str) -> str:
    """Letters, digits, dots and dashes, as the Hub wants them."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "data"


def _metric(name: str) -> str:
    """ "testA/accuracy" is an accuracy."""
    return name.rpartition("/")[2]


def _words(metric: str, value: Value, seeds: str) -> str:
    if value.ci95 is None:
        return f"{metric}{seeds}"
    low, high = value.ci95
    return f"{metric}{seeds}, 95 % interval {low:.4g} to {high:.4g}"


def _beside(value: Value, of: Row | Evaluated) -> dict[str, Any]:
    found = {"n": of.n, "ci95": None if value.ci95 is None else list(value.ci95)}
    if of.chance is not None:
        found |= {"chance": of.chance, "chance_is": of.chance_is}
    return found
