"""How a run saves, evaluates and ends, whatever ends it: nothing is lost that can be kept."""

import contextlib
import logging
import threading
from typing import Any

import jax

from unified_fm.checkpoint.store import Checkpoints
from unified_fm.optim.norms import all_finite
from unified_fm.runtime.nonfinite import NotFinite
from unified_fm.runtime.workdir import LockLost

_CLOSING_S = 5.0  # for the threads of the data, after a signal
_log = logging.getLogger(__name__)


class NotSaved(OSError):
    """The last steps of a run could not be saved; the text says which, and what is safe."""


class NotWritten(OSError):
    """The results of a run that is saved could not be written; the text says which."""


def save(run: Any) -> bool:
    """Starts to save the state; whether it was started.

    Raises:
        LockLost: the workdir is another run's now.
        OSError: see `Checkpoints.save`.
    """
    _check_lock(run)
    run.dog.progress(f"saving step {run.at}")
    with run.time.on("checkpoint"):
        run.unsaved = not run.checkpoints.save(
            run.at, run.state, position=run.position, config=run.settings.plain()
        )
    return not run.unsaved


def save_in_time(run: Any) -> None:
    """Saves in the midst of a run, but not while its steps are being refused.

    Such a state is worth no more than the one saved before, and would rotate it out: three restarts
    of a diverged run would leave nothing good. It is tried again when a step was accepted.

    Raises:
        NotFinite: too many steps in a row were refused.
    """
    run.watch.finish()
    if run.watch.in_a_row:
        run.unsaved = True
        return
    save(run)


def evaluate(run: Any) -> None:
    """Evaluates, writes the metrics to the log, and on record with the step if that is saved."""
    averaged = run.settings.evaluate.params == "ema"
    run.dog.progress(f"evaluating step {run.at}")
    with run.time.on("evaluation"), run.log.paused(), run.stop.leavable():
        params = run.state.ema if averaged else run.state.params
        found = run.evaluation.run(
            params, ema=run.state.ema, teacher_params=run.teacher_params, at=run.at
        )
    if found:
        run.log.write(run.at, found)
    _check_lock(run)
    run.checkpoints.record(run.at, found)


def finish(run: Any) -> None:
    """The last save, then the last evaluation, then the report.

    Raises:
        NotFinite: too many steps in a row were refused.
        NotSaved: after the evaluation, which can still be had.
        NotWritten: all steps are saved, but not what was found of the last one.
    """
    run.profile.close()  # of steps, not of what follows
    run.watch.finish()
    saved = _try_to_save(run)
    if run.settings.evaluate.at_end:
        evaluate(run)
    if not saved:
        save_last(run)
    missing = [] if run.log.flush() else ["the last lines of metrics.jsonl"]
    if run.settings.report:
        try:
            skipped = run.streams.skip_lines()
            run.evaluation.write_report(run.log.path, _facts(run), skipped)
        except OSError as error:
            missing.append(f"the report ({error})")
    if missing:
        raise NotWritten(
            f"step {run.at} is saved, but {' and '.join(missing)} could not be written: the same "
            "command makes the last evaluation and the report again"
        )


def save_last(run: Any) -> None:
    """Saves before the process ends.

    Raises:
        NotSaved: with the steps that are lost, and the one that is safe.
    """
    if _try_to_save(run):
        return
    latest = run.checkpoints.latest()
    first = 1 if latest is None else latest + 1
    safe = "no step is saved" if latest is None else f"step {latest} is safe"
    raise NotSaved(
        f"NOT SAVED: steps {first} to {run.at} are lost; {safe} in {run.checkpoints.directory}. "
        "Make room there; the same command makes them again"
    )


def rescue(run: Any) -> bool:
    """Saves, in another thread, for a main thread that is stuck. Returns whether all is safe."""
    try:
        _save_stopped(run)
    except Exception as error:
        _log.error("%s", error)
        return False
    return True


def save_on_error(run: Any, error: Exception) -> None:
    """Saves what an error would cost, if the state is whole; says what is safe in any case."""
    error.add_note(f"after step {run.at}")
    if isinstance(error, LockLost):
        return
    if isinstance(error, NotFinite):
        _set_aside(run)
        return
    if run.stop.processes > 1:  # the others may not come to save with this one
        _log.error("after step %d; step %s is saved", run.at, run.checkpoints.latest())
        return
    try:
        if not _nothing_new(run) and _whole(run.state):
            save_last(run)
            _log.info("saved after step %d, before the end", run.at)
    except Exception as problem:  # the first error is the one to be told
        _log.error("%s", problem)


def close(run: Any, *, failed: bool = False) -> None:
    """Closes all parts; after a signal, saves first.

    Args:
        run: the run.
        failed: an error is on its way, for which `save_on_error` has done what can be done: a
            signal that came meanwhile must not save steps that were refused as the latest.

    Raises:
        NotSaved: see `save_last`.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(_close_streams, run)
        stack.callback(_tell_skips, run)
        stack.callback(run.log.close)
        stack.callback(run.checkpoints.close)
        stack.callback(run.profile.close)
        stack.callback(_tell_time, run)
        if run.stop.signum is not None and not failed:
            _save_stopped(run)


def _save_stopped(run):
    """Saves what is new after a signal, and says so."""
    if _nothing_new(run):
        run.checkpoints.wait()
        _say_nothing_new(run)
        return
    save_last(run)
    _log.info("stopped after step %d; saved. The same command continues", run.at)


def _check_lock(run):
    if run.lock is not None:
        run.lock.check()


def _try_to_save(run):
    """Saves and waits; twice, as a half-written step takes the room of the next until it is gone.

    Returns:
        Whether it is saved.
    """
    for _ in range(2):
        # Too many failures in a row are an error, which the store has logged.
        with run.time.on("checkpoint"), contextlib.suppress(OSError):
            if save(run) and run.checkpoints.wait():
                return True
    return False


def _nothing_new(run):
    return run.at == 0 or run.checkpoints.safe(run.at)


def _say_nothing_new(run):
    if run.at:
        _log.info("stopped after step %d: nothing new to save", run.at)
    else:
        _log.info("stopped before the first step: nothing to save")


def _whole(state):
    """Whether no array was given away to a step that did not return, and all numbers are finite."""
    deleted = any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    return not deleted and bool(all_finite(state))


def _set_aside(run):
    """Saves a run that diverged where it can be looked at and is never resumed from.

    Beside the good steps, it would rotate one of them out at every restart.
    """
    try:
        aside = Checkpoints(run.checkpoints.directory / "refused", keep=1)
        aside.save(run.at, run.state, position=run.position, config=run.settings.plain())
        if aside.wait():
            where = aside.directory / str(run.at)
            _log.error("the state is in %s, to be looked at; no run resumes from it", where)
        aside.close()
    except Exception as error:  # the first error is the one to be told
        _log.error("the state could not be set aside: %s", error)


def _tell_skips(run):
    for name, line in run.streams.skip_lines().items():
        _log.info("records of %s: %s", name, line)


def _tell_time(run):
    _log.info("time of this training: %s", run.time.line())


def _close_streams(run):
    if run.stop.signum is None:
        run.batches.close()
        run.streams.end()
        return
    run.batches.close(timeout=0)
    # A reader that is stuck would hold up the exit.
    closer = threading.Thread(target=run.streams.end, daemon=True)
    closer.start()
    closer.join(timeout=_CLOSING_S)


def _facts(run):
    facts = {"steps": f"{run.at:,}", "steps refused": f"{run.watch.refused:,}"}
    facts["time"] = run.time.line()
    if run.state.spikes is not None:
        policy = run.settings.spikes.policy
        facts["gradient spikes"] = f"{run.watch.spikes:,} (policy: {policy})"
    return facts
