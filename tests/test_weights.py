"""Weights of losses that change over the run: values, gradients, runs, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import loop_runs, test_durations, test_step, test_teacher_cache, tiny_bert, ufm_runs
from unified_fm import setup, step
from unified_fm.bench import against
from unified_fm.config import chosen, durations, overrides, python
from unified_fm.config.settings import Settings
from unified_fm.objectives import mim, mlm
from unified_fm.optim import schedules
from unified_fm.report import report

MLM = "streams__text__objectives__mlm"
PLACE = "streams.text.objectives.mlm.weight"


def weighted(weight, **changes):
    """The tiny config of 8 steps with a weight of its loss of words; that of its images is 0.5."""
    return test_durations.settings(**{MLM: dict(weight=weight), "total_steps": 8} | changes)


def values(settings, counts=None, steps=(0, 1, 2, 4, 6, 8, 99)):
    found = chosen.schedules_of_weights(settings, counts or {}, lambda: settings.total_steps)
    _, peak = chosen.objective("mlm", settings.streams["text"].objectives["mlm"])
    return [peak * float(found["text"]["mlm"](jnp.int32(count))) for count in steps]


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ({}, [1, 0.875, 0.75, 0.5, 0.25, 0, 0]),  # a line from 1 to 0
        ({"peak": 2, "end": 0.5}, [2, 1.875, 1.75, 1.5, 1.25, 1, 1]),
        ({"until": "50%"}, [1, 0.75, 0.5, 0, 0, 0, 0]),
        ({"until": 2}, [1, 0.5, 0, 0, 0, 0, 0]),
        ({"until": "2 epochs of text"}, [1, 5 / 6, 4 / 6, 2 / 6, 0, 0, 0]),  # of 3 steps
        ({"name": "cosine"}, [1, 0.961940, 0.853553, 0.5, 0.146447, 0, 0]),
        ({"name": "constant", "warmup": "50%"}, [0, 0.25, 0.5, 1, 1, 1, 1]),
        ({"warmup": 4, "peak": -1.0}, [0, -0.25, -0.5, -1, -0.5, 0, 0]),
    ],
)
def test_the_weight_after_so_many_steps(weight, expected):
    found = values(weighted(weight), test_durations.COUNTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_durations_in_a_weight_count_as_any():
    made = weighted({"until": "1 epoch of image", "warmup": "10%"})
    assert durations.streams(made) == {"image"}
    assert durations.said(made) == dict.fromkeys(
        (f"{PLACE}.warmup", f"{PLACE}.until"), "resolved when the data is open"
    )
    assert durations.said(weighted({"warmup": "25%"})) == {
        f"{PLACE}.warmup": "2 steps",
        f"{PLACE}.until": "8 steps",
    }
    assert durations.streams(weighted(0.5)) == set()
    assert chosen.schedules_of_weights(weighted(0.5), {}, lambda: pytest.fail("asked")) == {}


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ("high", TypeError, rf"config\.{PLACE} must be float or dict, found 'high'"),
        (True, TypeError, r"must be float or dict, found True"),
        ([1, 0], TypeError, r"must be float or dict, found \[1, 0\]"),
        ({"ende": 0.1}, ValueError, rf"config\.{PLACE} has no key 'ende'; did you mean 'end'"),
        (
            {"name": "step"},
            ValueError,
            r"weight\.name is 'linear' or 'cosine' or 'constant', found",
        ),
        ({"end": 2.0}, ValueError, rf"config\.{PLACE}\.end must be a number in \[0, 1\], found 2"),
        ({"peak": "1"}, TypeError, rf"config\.{PLACE}\.peak must be float, found '1'"),
        ({"peak": float("inf")}, ValueError, "has the weight inf"),
        ({"until": 9}, ValueError, rf"config\.{PLACE}\.until is step 9, after the run: total_st"),
        ({"until": 0}, ValueError, r"until must be an integer of at least 1, found 0"),
        ({"until": "half"}, ValueError, rf"{PLACE}\.until is 'half'; a duration is a number of"),
        ({"until": "101%"}, ValueError, "a share, of at most 100%"),
        ({"until": "1 epoch of sound"}, ValueError, "no stream 'sound'"),
        ({"until": 2, "warmup": 3}, ValueError, rf"{PLACE}: a warm-up of 3 updates does not fit"),
    ],
)
def test_weights_that_cannot_be_are_refused(weight, error, message):
    with pytest.raises(error, match=message):
        loop_runs.config(8, **{MLM: dict(weight=weight)})


def test_the_command_line_sets_a_schedule_and_a_number():
    config = python.plain(weighted({"end": 0.5}).plain())
    entry = overrides.apply(config, [(f"{PLACE}.until", "50%")])["streams"]["text"]["objectives"]
    assert entry["mlm"] == {"weight": {"end": 0.5, "until": "50%"}}
    entry = overrides.apply(config, [(PLACE, "2")])["streams"]["text"]["objectives"]
    assert entry["mlm"] == {"weight": 2.0}
    with pytest.raises(ValueError, match=r"mlm\.weight has no key 'end': it is 1\.0"):
        overrides.apply(weighted(1.0).plain(), [(f"{PLACE}.end", "0")])


def test_a_schedule_is_kept_in_the_config_and_shown_in_the_report():
    made = weighted({"name": "cosine", "end": 0.5})
    assert Settings.of(json.loads(json.dumps(made.plain()))).streams == made.streams
    [text, _] = report._streams(made.plain(), {})
    assert text["objectives"] == "mlm x a cosine schedule"
    with pytest.raises(ValueError, match=rf"constant weights, config\.{PLACE} changes over"):
        against._streams(made)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_the_gradient_of_a_loss_goes_with_its_weight(accumulate):
    """At weight 0 it moves nothing, at half its weight half as far; the other group is as it was.

    The rate is 0 and no draw is made, so the step sees the same parameters and batch each time.
    """
    program = test_step._program(
        {
            "text": test_step._stream(mlm=(mlm.Objective(), 1.0)),
            "image": test_step._stream(mim=(mim.Objective(), 3.0)),
        },
        groups={"text": ["text"], "image": ["image"]},
        accumulate=accumulate,
        schedules={"image": {"mim": schedules.build(name="linear", total_steps=4)}},
    )
    _, logs = test_step._run(program, batches=[test_step._batches()] * 5, lr=0.0)
    first, shares = logs[0], np.array([1, 0.75, 0.5, 0.25, 0])

    def column(name):
        return [log[name] for log in logs]

    np.testing.assert_allclose(column("image/mim/weight"), 3 * shares, rtol=1e-6)
    np.testing.assert_allclose(column("image/mim"), first["image/mim"], rtol=1e-6)
    np.testing.assert_allclose(column("loss/image"), 3 * shares * first["image/mim"], rtol=1e-5)
    for name in ("grad_norm/image", "loss/image"):
        assert first[name] > 0 and column(name)[-1] == 0
        np.testing.assert_allclose(column(name), shares * first[name], rtol=1e-5)
    for name in ("grad_norm/text", "loss/text"):
        np.testing.assert_allclose(column(name), first[name], rtol=1e-6)
    assert not any(name.startswith("text/mlm/weight") for name in first)


def test_a_run_knows_the_length_of_its_schedules():
    ready = setup.prepare(weighted({"until": "50%"}), devices=jax.devices()[:1])
    assert ready.program.schedules == {}
    for program in (ready.timed, ready._seeded(3)):
        weights = program.weights(jnp.int32(2))
        assert {name: set(found) for name, found in weights.items()} == {
            "text": {"mlm"},
            "image": {"mim"},
        }
        assert float(weights["text"]["mlm"]) == 0.5
        assert weights["image"]["mim"] == 0.5
    assert step.Program(model=None, streams={}, groups={}).weights(jnp.int32(0)) == {}


@pytest.mark.nightly
def test_a_teacher_that_takes_leave(tmp_path):
    """Its weight is logged, a resumed run goes on with it, and at 0 there might be no teacher."""
    tiny_bert.save(tmp_path / "bert")

    def run(name, weight, **text):
        config = test_teacher_cache.config(tmp_path, objective={"weight": weight}, **text)
        return ufm_runs.run(config, tmp_path / name)

    leaving = {"peak": 0.5, "until": "100%"}
    straight = run("leaving", leaving)
    lines = [line for line in loop_runs.lines(tmp_path / "leaving") if "text/distill" in line]
    assert [line["text/distill/weight"] for line in lines] == [0.5, 0.375, 0.25, 0.125]
    for line in lines:
        terms = 0.5 * line["text/mlm"] + line["text/distill/weight"] * line["text/distill"]
        assert line["loss/all"] == pytest.approx(terms, rel=1e-5)
    ufm_runs.forget_after(tmp_path / "leaving", 2)
    resumed = run("leaving", leaving)
    never = run("never", {"name": "constant", "peak": 0.0})
    alone = run("alone", 1.0, objectives={"mlm": 0.5})
    for name, value in straight.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
        np.testing.assert_allclose(never[name], alone[name], atol=1e-6, err_msg=name)
    assert any(abs(straight[name] - alone[name]).max() > 1e-3 for name in straight)
