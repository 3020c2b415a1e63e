"""Durations in epochs and shares of the run: what they come to, and runs that have them."""

import contextlib
import dataclasses
import json

import pytest

from tests import loop_runs, tiny_config
from unified_fm import cli, main, setup, train
from unified_fm.config import checks, durations, python
from unified_fm.config.settings import Settings
from unified_fm.data.loader import Loader
from unified_fm.runtime.interruption import Interruption
from unified_fm.teachers import runs as teacher_runs

COUNTS = {"text": {"records": 20, "batch": 8}, "image": {"records": 16, "batch": 8}}  # 3, 2 steps
EPOCHS = {
    "total_steps": "2 epochs of text",
    "checkpoint__every": "1 epoch of text",
    "evaluate__every": "2 epochs of text",
    "optimizer__schedule__warmup": "50%",
    "streams__text__source": "synthetic:text:20",
}


def settings(*, streams=("text", "image"), **changes):
    """The tiny config with some of its streams and with changes a__b=value."""
    config = python.plain(tiny_config.get_config())
    config["streams"] = {name: config["streams"][name.replace("task", "text")] for name in streams}
    for path, value in changes.items():
        *parents, last = path.split("__")
        owner = config
        for key in parents:
            owner = owner[key]
        owner[last] = value
    return Settings.of(config)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (7, 7),
        ("1 epoch of text", 3),  # 20 records by 8: the third step completes the epoch
        ("4 epochs of text", 12),  # whole epochs, so that every="1 epoch" divides them
        ("0.5 epochs of text", 2),
        ("3 epochs of image", 6),
    ],
)
def test_each_unit_of_the_length(text, steps):
    found = durations.resolve(settings(total_steps=text), COUNTS)
    assert (found.total, found.checkpoint_every, found.evaluate_every) == (steps, 2, 0)


def test_shares_are_of_the_length_and_an_interval_is_at_least_a_step():
    found = durations.resolve(
        settings(
            total_steps="4 epochs of text",  # 12
            checkpoint__every="25%",
            evaluate__every="1%",
            optimizer__schedule__warmup="1%",
        ),
        COUNTS,
    )
    assert dataclasses.astuple(found) == (12, 0, 3, 1)


def mixed(*stages, **changes):
    weights = [[begins, [1, number]] for number, begins in enumerate(stages, 1)]
    sources = ["synthetic:text:12", "synthetic:text:8"]
    options = {"streams__text__source": sources, "streams__text__weights": weights}
    return settings(**options | changes)


def test_a_stage_of_a_mixture_begins_at_a_share_or_an_epoch():
    made = mixed(0, "25%", "2 epochs of text", total_steps=20)
    assert durations.streams(made) == {"text"} and durations.staged(made) == ["text"]
    found = durations.weights(made, "text", COUNTS, 20)
    assert found == [[0, [1, 1]], [5, [1, 2]], [6, [1, 3]]]
    assert durations.weights(mixed(0, 7), "text", {}, 20) == [[0, [1, 1]], [7, [1, 2]]]
    ready = setup.prepare(made)
    with contextlib.closing(ready.open_streams()) as streams:
        form = streams.loaders["text"].order.form
    assert [start for start, *_ in form["stages"]] == [0, 5 * 8, 6 * 8]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((0, "half"), r"config\.streams\.text\.weights\[1\] is 'half'; a duration is"),
        ((0, "10%", "5%"), r"text\.weights: the stages begin at the steps \[0, 2, 1\]"),
        (("10%", 5), r"the stages begin at the steps \[2, 5\]; the first begins at 0"),
    ],
)
def test_stages_that_cannot_be(stages, message):
    with pytest.raises(ValueError, match=message):
        checks.check(mixed(*stages, total_steps=20))


def test_an_epoch_is_one_of_the_task_or_of_the_only_stream():
    assert durations.streams(settings(streams=["task", "image"], total_steps="1 epoch")) == {"task"}
    assert durations.streams(settings(streams=["image"], total_steps="1 epoch")) == {"image"}
    assert durations.streams(settings(total_steps=9)) == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 epocs", "'2 epocs': no unit is named 'epocs'; did you mean 'epochs'? Possible: %, epo"),
        ("9 steps", "Possible: %, epochs. A number of steps is an integer"),
        ("many", "a duration is a number of steps, '3 epochs of pairs' or '10%'"),
        ("-1 epoch", "a duration is a number of steps"),
        ("0 epochs of text", "it must last longer than nothing"),
        ("1 epoch", "epochs of which stream? Say '1 epoch of image'; Possible: image, text."),
        ("1 epoch of txt", "no stream 'txt'; did you mean 'text'?"),
        ("10%", "a share, of at most 100%, is one of total_steps"),
    ],
)
def test_what_is_no_duration_is_refused_before_any_data(text, message):
    argv = ["main", f"--config={tiny_config.__file__}", "--workdir=w"]
    with pytest.raises(main.Refused) as refusal:
        main.parse([*argv, f"--config.total_steps={text}"])
    assert str(refusal.value).startswith(f"config.total_steps is {text!r}")
    assert message in str(refusal.value)


def test_a_source_without_an_end_has_no_epoch():
    counts = {"text": {"records": 2**62, "batch": 8}}
    with pytest.raises(
        ValueError, match=r"config\.checkpoint\.every .* 'text', whose source has n"
    ):
        durations.resolve(settings(checkpoint__every="1 epoch of text"), counts)


def test_numbers_that_do_not_fit_are_refused_when_the_data_is_open():
    ready = setup.prepare(settings(**EPOCHS | {"optimizer__schedule__warmup": 7}))
    with pytest.raises(ValueError, match="a warm-up of 7 updates does not fit into 6"):
        _ = ready.steps
    assert ready.counts == {"text": COUNTS["text"]}  # and the other stream was not opened


def test_show_config_says_what_they_come_to(capsys):
    command = ["show", "config", f"--config={tiny_config.__file__}"]
    cli.main([*command, "--config.optimizer.schedule.warmup=50%", "--config.checkpoint.every=2"])
    shown = capsys.readouterr().out.splitlines()
    assert "optimizer.schedule.warmup = '50%'  (3 steps)" in shown
    assert "checkpoint.every = 2" in shown
    cli.main([*command, "--config.total_steps=2 epochs of text"])
    assert "total_steps = '2 epochs of text'  (resolved when the data is open)" in (
        capsys.readouterr().out.splitlines()
    )


@pytest.mark.slow
def test_a_run_of_epochs_stopped_in_the_middle_is_the_run_of_as_many_steps(run, monkeypatch):
    agreed = []
    monkeypatch.setattr(Interruption, "agree", lambda self, name, facts: agreed.append(facts()))
    steps = {"steps": 6, "checkpoint__every": 3, "optimizer__schedule__warmup": 3}
    whole = run("whole", **steps, streams__text__source="synthetic:text:20")

    def act(given):
        if given == 4:
            raise RuntimeError("the power fails")

    with monkeypatch.context() as patch, contextlib.suppress(RuntimeError):
        patch.setattr(setup, "Streams", loop_runs.streams_that(act))
        run("epochs", **EPOCHS)
    assert 6 not in loop_runs.steps(whole.parent / "epochs")
    resumed = run("epochs", **EPOCHS)
    loop_runs.same_params(resumed, whole)
    assert json.loads((resumed / "config.json").read_text())["total_steps"] == "2 epochs of text"
    # What several processes compare beside their data.
    told = [facts["steps"] for facts in agreed if "steps" in facts]
    assert told[0] == {"total": 6, "warmup": 3, "checkpoint_every": 3, "evaluate_every": 0}
    assert told[-1] == {"total": 6, "warmup": 3, "checkpoint_every": 3, "evaluate_every": 6}


@pytest.mark.slow
def test_neither_evaluating_nor_asking_for_the_teacher_needs_the_data(run, monkeypatch, tmp_path):
    (tmp_path / "teachers").mkdir()
    workdir = run("teachers/vit", **EPOCHS)

    def closed(*args, **kwargs):
        raise AssertionError("the data is gone")

    monkeypatch.setattr(setup.Prepared, "open_streams", closed)
    monkeypatch.setattr(Loader, "__init__", closed)
    run("teachers/vit", mode=train.evaluate, **EPOCHS)
    assert loop_runs.steps(workdir)[-1] == 6
    student = loop_runs.config(6)
    wanted = loop_runs.config(6, **EPOCHS)
    student = student.replace(teachers={"vit": {"config": wanted, "streams": ["image"]}})
    student = Settings.of(student.plain())
    ready = teacher_runs.train(student, tmp_path, None, closed)
    assert ready.teachers["vit"].path == str(workdir)
