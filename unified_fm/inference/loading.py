"""From a path to a model that can be asked: `unified_fm.load("runs/quickstart")`.

A run carries all that it needs: its config, its parameters, and in `assets/` the tokenizer and the
options of its pipelines. So it loads wherever it is moved to, without its data, its teachers and
the files it started from. Nothing is downloaded.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from unified_fm import plugins as plugin_lookup
from unified_fm import setup
from unified_fm.checkpoint import assets, store
from unified_fm.config import chosen, saved
from unified_fm.config.settings import Settings
from unified_fm.convert import config_values, families, hf_models
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.pipelines import base as pipelines
from unified_fm.data.pipelines.base import ImageOptions, TextOptions
from unified_fm.evaluators.base import HeldOut
from unified_fm.inference import places
from unified_fm.inference.model import Model
from unified_fm.inference.parts import Head, Parts
from unified_fm.inference.places import Place
from unified_fm.inference.preprocessing import Preprocessing
from unified_fm.inference.programs import Programs
from unified_fm.objectives.base import Objective
from unified_fm.runtime import compiler

_log = logging.getLogger(__name__)
_PRECISION = ("float32", "bfloat16")
_OF_IMAGE_HEAD = "unified_fm.objectives.classify"  # it learns a head that models have themselves
# By these nothing is augmented or masked, and no label or answer is looked for.
_STILL = {**HeldOut.option_defaults, "truth": "unused"}


def load(
    path: str | os.PathLike,
    *,
    batch_size: int = 32,
    dtype: str | None = None,
    devices: Sequence[Any] | None = None,
    plugins: Sequence[str] = (),
) -> Model:
    """Loads a model.

        model = unified_fm.load("runs/quickstart")
        model.match("photo.jpg", "a pear and a camera")

    Args:
        path: the workdir of a run (the latest checkpoint, or the best one if the run chooses one),
            RUN/checkpoints/STEP, what `unified-fm convert import` wrote, or a folder with
            `config.json`, weights and tokenizer files as `unified-fm convert export --to=hf-...`
            writes it.
        batch_size: rows that are computed at once, at most.
        dtype: of the computation, "float32" or "bfloat16"; by default float32 on CPUs and bfloat16
            elsewhere.
        devices: of JAX, among which the rows of a batch are shared out; by default all local ones.
        plugins: modules whose plugins the run's config may name (`plugins=("my_project",)`): to
            load one is to run it, and a file alone may not ask for that.

    Raises:
        FileNotFoundError: there is nothing, with what was looked for and the nearest names.
        ValueError: nothing that can be loaded; a damaged checkpoint; a wrong argument.
        plugins.Unnamed: the run names a plugin of a module that is not in `plugins`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least 1 is needed")
    compiler.make_sound()
    devices = list(jax.local_devices() if devices is None else devices)
    if not devices:
        raise ValueError("devices is empty; at least one is needed, and None is all local ones")
    if dtype is None:
        dtype = "float32" if devices[0].platform == "cpu" else "bfloat16"
    if dtype not in _PRECISION:
        raise ValueError(f"dtype is {dtype!r}; possible: {', '.join(_PRECISION)}")
    place = places.find(path, plugins)
    read = {places.RUN: _run, places.WEIGHTS: _weights, places.FOREIGN: _foreign}[place.kind]
    found = read(place, dtype)
    parts = Parts(
        programs=Programs(found.ready.program, found.params, devices, batch_size),
        preprocessing=found.preprocessing,
        tokenizer=found.ready.tokenizer,
        heads=found.heads,
        params=found.params,
        facts={
            "path": str(path),
            "kind": place.kind,
            "model": found.ready.settings.model["name"],
            **found.facts,
            "dtype": dtype,
            "devices": [str(device) for device in devices],
            "batch_size": batch_size,
        },
    )
    return Model(parts)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """What was read of a place."""

    ready: setup.Prepared
    params: Mapping[str, Any]
    preprocessing: Preprocessing
    heads: Sequence[Head]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _run(place: Place, dtype: str) -> _Found:
    given = {**place.config, "init": None, "teachers": {}, "prepare": None, "mode": "train"}
    settings = Settings.of({**given, "model": _precise(given["model"], dtype)})
    settings = chosen.without_teachers(settings)
    copy = assets.kept_tokenizer(place.folder)
    if copy is not None:
        settings = settings.replace(tokenizer=str(copy))
    # The shapes of the streams' batches are of no interest, and neither are their data.
    ready = setup.prepare(assets.located(settings, place.folder), shapes={})
    with _quiet():
        checkpoints = store.Checkpoints(
            place.folder / "checkpoints",
            best=settings.checkpoint.best,
            best_mode=settings.checkpoint.best_mode,
            read_only=True,
        )
    known = (place.step, checkpoints.best(), checkpoints.latest())
    step = next((number for number in known if number is not None), None)
    if step is None:
        raise ValueError(f"the run in {place.folder} has no complete checkpoint yet")
    averaged = settings.evaluate.params == "ema"  # what was evaluated is what is used
    params = checkpoints.load_params(step, averaged=averaged)
    made = _pipelines(place, ready, assets.kept_preprocessing(place.folder))
    return _Found(
        ready=ready,
        params=params,
        preprocessing=_chosen(made),
        heads=_heads(ready, params, made, assets.kept_class_names(place.folder)),
        facts={
            "step": step,
            "averaged": averaged,
            "commit": assets.kept_commit(place.folder),
            "config": place.config,
        },
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns of a directory that is only read, which is what is wanted."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _weights(place: Place, dtype: str) -> _Found:
    """Imported weights of ours: parameters and the model that runs them, without a run."""
    model = dict(place.config["model"])
    plugin_lookup.refuse_unnamed(str(model.get("name")), f"{place.folder}: model", ())
    return _alone(place, model, store.load_params(place.folder), dtype)


def _foreign(place: Place, dtype: str) -> _Found:
    """A folder of Hugging Face, by the family that its `model_type` names."""
    model = hf_models.read(place.folder) or {}
    return _alone(place, model, families.load(place.config["model_type"], place.folder), dtype)


def _alone(place: Place, model: Mapping[str, Any], params: Any, dtype: str) -> _Found:
    try:
        tokenizer = tokenizers.load(place.folder)
    except (FileNotFoundError, ValueError) as error:
        _log.info("no texts can be read: %s", error)
        tokenizer = None
    settings = Settings.of({"model": _precise(model, dtype)})
    ready = setup.prepare(settings, tokenizer=tokenizer or tokenizers.load("bytes"), shapes={})
    net, heads = ready.program.model, []
    image: Any = None
    text: Any = None
    if "patch_embed" in params:
        options = {"size": net.image_size, "patch_size": net.patch_size, "num_masked": 0}
        options["augment"] = "none"
        image = pipelines.make(pipelines.load("image"), options, what=str(place.folder))
        if "image_head" in params:
            labels = config_values.labels(place.config, "id2label") or ()
            heads = [Head("", "image_head", None, image, labels)]
    if "text_embed" in params and tokenizer is not None:
        offset = net.pad_id + 1 if model.get("position_offset") == "roberta" else 0
        options = {"max_len": net.max_positions - offset, "mask_rate": 0.0}
        made = pipelines.load("text")
        text = pipelines.make(made, options, tokenizer=tokenizer, what=str(place.folder))
    return _Found(
        ready=ready,
        params=params,
        preprocessing=Preprocessing(image, text, text),
        heads=heads,
    )


def _precise(model: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The options of a model with the precision of its computation, if that is one of them."""
    known = plugin_lookup.parameters(plugin_lookup.load("models", model["name"])).known
    return {**model, **({"dtype": dtype} if "dtype" in known else {})}


def _pipelines(
    place: Place, ready: setup.Prepared, options: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """{stream: its pipeline as an evaluation has it}, by the `options` that the run has kept."""
    made = {}
    for stream, entry in ready.settings.streams.items():
        given = {"pipeline": entry.pipeline, **entry.options, **options.get(stream, {})}
        name = given.pop("pipeline")
        where = f"{place.folder}: stream {stream!r}"
        plugin_lookup.refuse_unnamed(name, where, saved.modules_of(ready.settings.plain()))
        plugin = pipelines.load(name)
        known = pipelines.options_of(plugin)
        given |= {key: value for key, value in _STILL.items() if key in known}
        made[stream] = pipelines.make(plugin, given, tokenizer=ready.tokenizer, what=where)
    return made


def _heads(
    ready: setup.Prepared,
    params: Mapping[str, Any],
    made: Mapping[str, Any],
    names: Mapping[str, Sequence[str]],
) -> list[Head]:
    """The objectives of the run that predict; last the image head that a model itself has."""
    own = [
        Head("", key, None, made[name], names.get(name, ()))
        for name, stream in ready.program.streams.items()
        for key, objective in stream.objectives.items()
        if type(objective).__module__ == _OF_IMAGE_HEAD and "image_head" in params
    ]
    predicting = [
        Head(name, key, objective, made[name], names.get(name, ()))
        for name, stream in ready.program.streams.items()
        for key, objective in stream.objectives.items()
        if type(objective).predict is not Objective.predict
    ]
    return [*predicting, *own]


def _chosen(made: Mapping[str, Any]) -> Preprocessing:
    """The pipelines by what they are for: first those of pairs, as evaluators of pairs read."""
    gives = {stream: {*pipeline.spec()} for stream, pipeline in made.items()}
    images = [
        s for s in made if isinstance(made[s], ImageOptions) and {"image", "images"} & gives[s]
    ]
    texts = [s for s in made if isinstance(made[s], TextOptions) and "text" in gives[s]]
    both = sorted((s for s in images if s in texts), key=lambda s: made[s].packed)
    alone = [s for s in texts if s not in both]

    def first(*streams: str) -> Any:
        return made[streams[0]] if streams else None

    return Preprocessing(
        image=first(*both, *images), caption=first(*both, *alone), text=first(*alone, *both)
    )
