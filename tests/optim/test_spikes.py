"""Spikes of the gradient norm: seen, counted, and skipped where the config says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import loop_runs
from unified_fm.checkpoint import store as checkpoint
from unified_fm.optim.spikes import Spikes
from unified_fm.runtime.nonfinite import Watch


def _seen(spikes, norms):
    """[(whether it is a spike, sigmas above the mean)] of norms seen one after the other."""
    state, found = spikes.init(), []
    for norm in norms:
        state, spike, sigma = spikes.look(state, jnp.float32(norm))
        found.append((bool(spike), float(sigma)))
    return state, found


def test_D10_a_spike_lies_so_many_sigma_above_the_window():
    norms = [np.exp(1.0), np.exp(3.0)] * 2  # logarithms of mean 2 and standard deviation 1
    spikes = Spikes(sigma=3.0, window=4)
    _, found = _seen(spikes, [*norms, np.exp(4.9)])
    assert not any(spike for spike, _ in found)
    assert found[-1][1] == pytest.approx(2.9, abs=1e-3)
    state, found = _seen(spikes, [*norms, np.exp(5.1)])
    assert [spike for spike, _ in found] == [False] * 4 + [True]
    assert int(state.found) == 1
    assert float(state.window[0]) == pytest.approx(5.0, abs=1e-3)  # as if it had just been none


def test_D10_nothing_is_a_spike_before_the_window_is_full():
    _, found = _seen(Spikes(sigma=1.0, window=4), [1.0, 1.0, 1e9, 1.0])
    assert [spike for spike, _ in found] == [False] * 4


def test_D10_a_level_that_has_risen_for_good_is_soon_the_usual_one():
    _, found = _seen(Spikes(window=10), [1.0] * 10 + [50.0] * 20)
    assert found[10][0]
    assert not any(spike for spike, _ in found[15:])


def test_D10_zero_norms_and_huge_ones_stay_finite():
    state, found = _seen(Spikes(window=2), [0.0, 0.0, 3e38, 0.0, 0.0])
    assert np.isfinite(state.window).all()
    assert np.isfinite([sigma for _, sigma in found]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "clipp"}, "policy is 'clip' or 'skip', found 'clipp'"),
        ({"sigma": 0}, "sigma must be a number above 0"),
        ({"sigma": float("nan")}, "sigma must be a number above 0"),
        ({"window": 1}, "window must be an integer of at least 2"),
        ({"window": 2.5}, "window must be an integer of at least 2"),
    ],
)
def test_D10_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Spikes(**options)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["clip", "skip"])
def test_row_12_spikes_are_counted_and_skipped_if_so_configured(run, caplog, policy):
    """With sigma near 0 every norm above the mean of the two before is a spike."""
    workdir = run(
        steps=9, checkpoint__every=1, spikes={"policy": policy, "sigma": 1e-6, "window": 2}
    )
    lines = loop_runs.lines(workdir)
    counts = np.array([line["spikes"] for line in lines])
    spiked = np.diff(counts, prepend=0) > 0
    np.testing.assert_array_equal(spiked, [line["spike_sigma"] > 1e-6 for line in lines])
    assert spiked[2:].any()
    assert not spiked[2:].all()
    assert caplog.text.count("is a spike") == counts[-1]
    assert ("the step was left out" in caplog.text) == (policy == "skip")
    for step in range(2, 10):
        before, after = (checkpoint.load_params(workdir, s) for s in (step - 1, step))
        same = all(map(np.array_equal, jax.tree.leaves(before), jax.tree.leaves(after)))
        assert same == (policy == "skip" and spiked[step - 1])


@pytest.mark.slow
def test_D10_a_resumed_run_sees_the_spikes_of_an_undisturbed_one(run):
    options = dict(
        spikes={"policy": "skip", "sigma": 0.5, "window": 3},
        optimizer__schedule={"name": "constant"},
        checkpoint__every=5,
    )
    whole = run("whole", steps=12, **options)
    run(steps=5, **options)
    workdir = run(steps=12, **options)
    loop_runs.same_params(workdir, whole)
    for name in ("spikes", "spike_sigma", "grad_norm"):
        assert [x[name] for x in loop_runs.lines(workdir)] == [
            x[name] for x in loop_runs.lines(whole)
        ]


@pytest.mark.nightly
def test_D10_to_count_spikes_changes_no_training(run):
    counting = run("counting", spikes={"policy": "clip", "sigma": 0.1, "window": 2})
    without = run("without", spikes={"policy": "clip", "sigma": 6.0, "window": 0})
    assert loop_runs.lines(counting)[-1]["spikes"] > 0
    assert "spikes" not in loop_runs.lines(without)[-1]
    # Two programs, which may round apart.
    loop_runs.same_params(counting, without, rtol=1e-5, atol=1e-7)


def test_D10_a_refused_step_is_no_spike_and_hides_none(tmp_path, caplog):
    """Its metrics have one spike more, but its state, and so the next step, has not."""
    watch, sigma = Watch(tmp_path, seed=0), {"grad_norm": 9.0, "spike_sigma": 7.0}
    watch.see(1, {"ok": 0.0, "spikes": 1.0, **sigma}, dict)
    watch.finish()
    assert watch.spikes == 0
    watch.see(2, {"ok": 1.0, "spikes": 1.0, **sigma}, dict)
    watch.finish()
    assert watch.spikes == 1
    assert caplog.text.count("is a spike") == 1


@pytest.mark.nightly
def test_D10_the_report_says_how_many(run):
    workdir = run(steps=2, report=True)
    assert "gradient spikes" in (workdir / "report.html").read_text()
