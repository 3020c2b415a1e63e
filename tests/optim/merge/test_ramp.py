"""The ramp of the mask: its numbers, and what it refuses."""

import pytest

from unified_fm.optim.ramp import Ramp, make_ramp


def ramp_of(**options):
    defaults = {"schedule": "cubic", "final_ratio": 0.5, "t0": 0.05, "t1": 0.5}
    return make_ramp(**(defaults | {"dt": None, "total_steps": None} | options))


def test_the_cubic_ramp_of_zhu_and_gupta():
    ramp = Ramp(schedule="cubic", final_ratio=0.5, t0=100, t1=900, dt=100)
    assert list(ramp.steps()) == [100, 200, 300, 400, 500, 600, 700, 800, 900]
    found = [round(ramp.ratio(step), 4) for step in ramp.steps()]
    assert found == [0.0, 0.1650, 0.2891, 0.3779, 0.4375, 0.4736, 0.4922, 0.4990, 0.5]
    assert ramp.ratio(0) == ramp.ratio(99) == 0.0
    assert ramp.ratio(10**6) == 0.5


def test_the_other_schedules():
    def ratios(schedule):
        ramp = Ramp(schedule=schedule, final_ratio=0.75, t0=10, t1=50, dt=20)
        return [round(ramp.ratio(step), 4) for step in (9, 10, 30, 50, 99)]

    assert ratios("linear") == [0.0, 0.0, 0.375, 0.75, 0.75]
    assert ratios("geometric") == [0.0, 0.0, 0.5, 0.75, 0.75]  # half of what is kept, each time
    one = ramp_of(schedule="one_shot", t0=7, final_ratio=0.3)
    assert list(one.steps()) == [7]
    assert [one.ratio(step) for step in (6, 7, 8)] == [0.0, 0.3, 0.3]


def test_counts_are_exact_where_float32_is_not():
    ramp = Ramp(schedule="cubic", final_ratio=0.5, t0=0, t1=10, dt=1)
    assert ramp.released(10, 2**26 + 2) == 2**25 + 1
    assert ramp.released(5, 1000) == 437
    assert ramp.released(0, 1000) == 0


def test_fractions_of_the_run():
    ramp = ramp_of(total_steps=1000)
    assert (ramp.t0, ramp.t1, ramp.dt) == (50, 500, 45)
    assert len(ramp.steps()) == 11
    rounded = ramp_of(total_steps=1003)  # 50, 502 and 45.2, so the end comes down to 50 + 10 * 45
    assert (rounded.t0, rounded.t1, rounded.dt) == (50, 500, 45)
    assert rounded.ratio(rounded.t1) == 0.5
    mixed = ramp_of(t0=10, t1=0.5, dt=20, total_steps=200)
    assert (mixed.t0, mixed.t1, mixed.dt) == (10, 90, 20)
    assert ramp_of(total_steps=2).ratio(2) == 0.5  # a smoke test of two steps has a ramp, too
    assert list(ramp_of(total_steps=1).steps()) == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t0": 10, "t1": 120, "total_steps": 100}, r"ends at step 120.*total_steps=100"),
        ({"schedule": "one_shot", "t0": 101, "total_steps": 100}, r"step 101.*total_steps=100"),
        ({}, r"t0=0.05 is a fraction of the run, and total_steps was not given"),
        ({"t0": 2.5, "total_steps": 100}, r"t0=2.5: a float is a fraction"),
        ({"t0": 50, "t1": 10, "dt": 10}, r"found t0=50, t1=10, dt=10"),
        ({"t0": 0, "t1": 10, "dt": 0}, r"dt >= 1.*dt=0"),
        ({"t0": 0, "t1": 90, "dt": 20}, r"t1=90 is no whole number of dt=20.*step 80.*0.4993"),
        ({"schedule": "one_shot", "t0": 0}, r"share of 0.5 at step 0, before any gradient"),
        ({"final_ratio": 1.5, "t0": 1, "t1": 2, "dt": 1}, r"final_ratio must be in \[0, 1\]"),
        ({"schedule": "cubik", "total_steps": 10}, r"did you mean 'cubic'"),
    ],
)
def test_impossible_ramps_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ramp_of(**options)
