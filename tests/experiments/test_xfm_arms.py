"""The arms of the X-FM ablation differ where they say, and nowhere else."""

import jax
import numpy as np
import pytest

from experiments import grid
from experiments.xfm_ablation.arms import COUNTED, arms, spec
from unified_fm import rules, setup
from unified_fm.data import streams
from unified_fm.data import tokenizer as tokenizers

ALL = arms(steps=1500)


@pytest.fixture(scope="module")
def made():
    """{arm: its settings}."""
    work = grid.Grid(spec=spec(steps=1500), arms=ALL, seeds=[0])
    return {name: work.settings(changes) for name, changes in ALL.items()}


def learnt(settings):
    return {name: sorted(entry.objectives) for name, entry in settings.streams.items()}


ALIGNED = ["imlm", "itc", "itm"]
FULL = {
    "text": ["mlm"],
    "image": ["mim"],
    "pairs": ["imlm", "itc", "itm", "mim"],
    "regions": ["bbox", *ALIGNED],
}


def test_arms_learn_what_they_are_called(made):
    pixels = {"image": ["pixels"], "pairs": ["imlm", "itc", "itm", "pixels"]}
    regions = {"regions": FULL["regions"]}
    found = {name: learnt(settings) for name, settings in made.items()}
    assert found == {
        **dict.fromkeys(("full", "no_stop", "stop_all", "mim_frozen", "mim_ema"), FULL),
        "text_only": {"text": ["mlm"]},
        "vl_only": {"pairs": ALIGNED, **regions},
        "image_only": {"image": ["pixels"], "pairs": ["pixels"]},
        "no_mim": {"text": ["mlm"], "pairs": ALIGNED, **regions},
        "mim_pixels": FULL | pixels,
        "no_regions": {name: FULL[name] for name in ("text", "image", "pairs")},
    }
    assert set(COUNTED) < set(found)


def test_arms_stop_what_they_say(made):
    def told(name):
        return {
            (stream, key): options["stop_text_gradient"]
            for stream, entry in made[name].streams.items()
            for key, options in entry.objectives.items()
            if isinstance(options, dict) and "stop_text_gradient" in options
        }

    fused = [
        ("pairs", "itm"),
        ("pairs", "imlm"),
        *(("regions", k) for k in ("itm", "imlm", "bbox")),
    ]
    assert told("no_stop") == told("vl_only") == dict.fromkeys(fused, False)
    assert told("stop_all") == {("pairs", "itc"): True, ("regions", "itc"): True}
    assert not any(told(name) for name in ("full", "text_only", "no_mim", "mim_frozen"))
    # What they change besides, they do not: weights and other options are those of `full`.
    boxes = {name: made[name].streams["regions"].objectives["bbox"] for name in ("full", "no_stop")}
    assert boxes["no_stop"] == {**boxes["full"], "stop_text_gradient": False}


def test_arms_have_one_recipe_and_the_same_data(made):
    def rest(settings):
        apart = ("streams", "evaluate", "teachers", "ema")
        return {key: value for key, value in settings.plain().items() if key not in apart}

    def data(entry):
        return {key: value for key, value in entry.plain().items() if key != "objectives"}

    full = made["full"]
    for name, settings in made.items():
        assert rest(settings) == rest(full), name
        for stream, entry in settings.streams.items():
            assert data(entry) == data(full.streams[stream]), (name, stream)
        asked = settings.evaluate.evaluators
        assert asked == {key: full.evaluate.evaluators[key] for key in asked}
        assert settings.ema == (0.995 if name == "mim_ema" else None)
    assert full.total_steps == 1500
    assert full.streams["text"].batch_size == 64


def test_the_teacher_is_the_arm_image_only_for_as_many_steps(made):
    assert {name: list(s.teachers) for name, s in made.items() if s.teachers} == {
        "mim_frozen": ["image_only"]
    }
    teacher = made["mim_frozen"].own_runs()["image_only"]
    assert teacher.plain() == made["image_only"].plain()
    short = grid.Grid(spec=spec("short"), arms={}, seeds=[]).settings({}).total_steps
    assert short == 6


def test_a_stream_has_the_same_batches_whoever_else_is_there(made):
    """With made-up records: the order, the masks and the choice of words are those of the seed."""
    kinds = {"text": "text", "image": "image", "pairs": "pairs", "regions": "regions"}

    def batch(name):
        configs = {}
        for stream, entry in made[name].streams.items():
            source = f"synthetic:{kinds[stream]}:40"
            configs[stream] = {**entry.plain(), "source": source, "batch_size": 4, "threads": 1}
            if stream == "regions":
                configs[stream]["images"] = 4
        opened = streams.Streams(configs, seed=5, tokenizer=tokenizers.load("bytes"))
        try:
            next(opened)
            return next(opened)
        finally:
            opened.end()

    full = batch("full")
    for name in ("text_only", "image_only", "vl_only"):
        for stream, arrays in batch(name).items():
            for key, value in arrays.items():
                np.testing.assert_array_equal(value, full[stream][key], err_msg=f"{name} {key}")


@pytest.mark.nightly  # every arm is initialised
def test_arms_of_a_seed_start_from_the_same_parameters(made):
    def start(name):
        ready = setup.prepare(made[name].replace(seed=3), tokenizer=tokenizers.load("bytes"))
        return dict(rules.named_leaves(jax.jit(ready.init_params)({})))

    full = start("full")
    for name in ("text_only", "no_mim", "no_regions", "mim_pixels"):
        shared = {path: leaf for path, leaf in start(name).items() if path in full}
        assert any(path.startswith("text/") for path in shared)
        for path, leaf in shared.items():
            np.testing.assert_array_equal(leaf, full[path], err_msg=f"{name} {path}")
