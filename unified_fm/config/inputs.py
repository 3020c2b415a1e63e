"""Whether the model gives what is read of it, and reads texts and images of these sizes.

Before any data is opened.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.data.pipelines import base as pipelines

# Option of a pipeline -> the views that are made of what it sizes.
_VIEWS = {
    "max_len": {"text", "text_masked", "image_memory"},
    "size": {"image", "image_masked", "pooled", "image_memory"},
}


def check(settings: Settings) -> None:
    """Refuses objectives of views that the model does not give, and sizes that it does not read.

    Raises:
        ValueError: with the option, what it is and what is possible.
    """
    model = chosen.model(settings.model)
    for name, stream in settings.streams.items():
        for key, value in stream.objectives.items():
            learnt = chosen.objective(key, value)[0]
            if lacks := {*learnt.reads, *learnt.encodes} - {*model.views}:
                raise ValueError(
                    f"config.streams.{name}.objectives.{key} reads {', '.join(sorted(lacks))}, and "
                    f"the model {settings.model['name']!r} gives {', '.join(model.views)}"
                )
    longest, size = model.longest_text(), model.image_size
    for place, option, value in _given(settings):
        if not isinstance(value, int):
            continue  # refused by the pipeline
        if option == "max_len" and longest is not None and value > longest:
            raise ValueError(
                f"{place} is {value}, and the model reads texts of {longest} tokens at most "
                f"(its max_positions is {model.max_positions}); possible: 3 to {longest}"
            )
        if option == "size" and size is not None and value != size:
            raise ValueError(
                f"{place} is {value}, and the model reads images of model.image_size = {size} "
                f"pixels a side: both must be the same"
            )


def _given(settings: Settings) -> Iterator[tuple[str, str, Any]]:
    """(place, option, value) of the streams' pipelines, and what evaluators say for their own."""
    for name, stream in settings.streams.items():
        made = [chosen.objective(key, value)[0] for key, value in stream.objectives.items()]
        read = {view for each in made for view in (*each.reads, *each.ema_reads, *each.encodes)}
        known = pipelines.options_of(pipelines.load(stream.pipeline))
        for option, views in _VIEWS.items():
            if option in known and read & views:
                value = stream.options.get(option, known[option].default)
                yield f"config.streams.{name}.{option}", option, value
    for name, entry in settings.evaluate.evaluators.items():
        given = entry.get("options")
        if not isinstance(given, Mapping):
            continue
        for option in _VIEWS:
            if option in given:
                place = f"config.evaluate.evaluators.{name}.options.{option}"
                yield place, option, given[option]
