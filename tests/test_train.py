import functools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import loop_runs, one_device
from unified_fm import setup, train
from unified_fm.checkpoint import store as checkpoint
from unified_fm.data import tokenizer
from unified_fm.runtime import log as metrics
from unified_fm.runtime import nonfinite, workdir

ROOT = pathlib.Path(__file__).parents[1]
# For processes of their own: the same program as in this one, on one device.
ONE_DEVICE = os.environ | {"XLA_FLAGS": one_device.FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def test_a_run_logs_saves_and_ends(run, caplog, monkeypatch):
    place, placed = setup.Prepared.place, []

    def seen(self, batches):
        placed.append(threading.current_thread().name)
        return place(self, batches)

    monkeypatch.setattr(setup.Prepared, "place", seen)
    workdir = run(checkpoint__keep=2)
    assert placed == ["ahead"] * 6  # not in the loop's thread, and none that no step uses
    lines = loop_runs.lines(workdir)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"text/mlm", "image/mim", "lr", "samples_per_second", "data_wait", "ok"} <= set(lines[0])
    assert lines[-1]["lr"] == pytest.approx(0.01 / 6)  # linear to 0, the sixth of six updates
    assert loop_runs.steps(workdir) == [4, 6]
    assert json.loads((workdir / "config.json").read_text())["total_steps"] == 6
    assert "step 6/6 | image mim" in caplog.text


@pytest.mark.slow
def test_a_run_that_is_extended_goes_on_and_keeps_one_log(run):
    run(steps=4, optimizer__schedule=dict(name="constant"))
    workdir = run(steps=6, optimizer__schedule=dict(name="constant"))
    assert [line["step"] for line in loop_runs.lines(workdir)] == [1, 2, 3, 4, 5, 6]
    whole = run("whole", steps=6, optimizer__schedule=dict(name="constant"))
    loop_runs.same_params(workdir, whole)


@pytest.mark.slow
def test_row_10_resumed_in_mid_epoch_twenty_more_steps_are_the_same_bits(run):
    changes = dict(optimizer__schedule=dict(name="constant"), ema=0.9)  # and dropout 0.1
    changes["streams__text__source"] = "synthetic:text:50"  # six batches and a quarter
    changes["streams__image__source"] = "synthetic:image:20"  # with crops, flips and RandAugment
    run(steps=9, **changes)
    resumed, whole = run(steps=29, **changes), run("whole", steps=29, **changes)
    loop_runs.same_params(resumed, whole)
    times = ("samples_per_second", "data_wait", "time/")
    for got, want in zip(loop_runs.lines(resumed), loop_runs.lines(whole), strict=True):
        assert {k: x for k, x in got.items() if not k.startswith(times)} == {
            k: x for k, x in want.items() if not k.startswith(times)
        }


@pytest.mark.slow
def test_killed_between_two_saves_and_restarted_the_result_is_the_same(run, tmp_path):
    whole = run("whole", steps=300, checkpoint__every=100, log__every=50)
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "unified_fm.main", f"--workdir={workdir}"]
    command += ["--config=tests/tiny_config.py:300", "--config.checkpoint.every=100"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, env=ONE_DEVICE)
    while not (workdir / "checkpoints" / "100").exists():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 300 not in loop_runs.steps(workdir)

    restarted = run("killed", steps=300, checkpoint__every=100, log__every=50)
    assert loop_runs.steps(restarted)[-1] == 300
    loop_runs.same_params(restarted, whole)


@pytest.mark.slow
def test_row_02_a_signal_while_waiting_for_data_saves(run, monkeypatch, caplog):
    slow = loop_runs.SlowStreams.after(3)
    threading.Thread(target=slow.send_when_stuck, args=(signal.SIGTERM,), daemon=True).start()
    with monkeypatch.context() as patch:
        patch.setattr(setup, "Streams", slow)
        workdir = run(steps=6, checkpoint__every=100)
    assert run.stop.exit_code == 143
    assert loop_runs.steps(workdir) == [3]
    assert "stopped after step 3; saved" in caplog.text
    workdir = run(steps=6)
    assert run.stop.exit_code == 0
    loop_runs.same_params(workdir, run("whole", steps=6))


def test_row_02_a_signal_before_the_first_step_has_nothing_to_save(run, monkeypatch, caplog):
    slow = loop_runs.SlowStreams.after(0)
    monkeypatch.setattr(setup, "Streams", slow)
    threading.Thread(target=slow.send_when_stuck, args=(signal.SIGINT,), daemon=True).start()
    workdir = run(steps=6)
    assert run.stop.exit_code == 130
    assert not loop_runs.steps(workdir)
    assert "stopped before the first step: nothing to save" in caplog.text


def test_B4_a_signal_while_a_checkpoint_is_read_is_no_damage(run, monkeypatch, caplog):
    run(steps=4)

    def slow(*args, **kw):
        os.kill(os.getpid(), signal.SIGTERM)
        loop_runs.wait_until(lambda: False)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", slow)
        workdir = run(steps=6, checkpoint__allow_fallback=True)
    assert run.stop.exit_code == 143
    assert "Going back" not in caplog.text
    assert "stopped before the first step: nothing to save" in caplog.text
    assert loop_runs.steps(workdir) == [2, 4]


def test_row_04_a_second_signal_exits_at_once():
    script = (
        "import os, signal, time\n"
        "from unified_fm.runtime.interruption import Interruption\n"
        "with Interruption():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('not reached', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stdout == "still here\n"
    assert "SIGTERM again: exiting at once" in done.stderr


@pytest.mark.slow
def test_row_09_other_data_is_refused_and_can_be_allowed(run):
    run(steps=2)
    with pytest.raises(ValueError, match=r"streams.text.batch_size: 8 -> 16") as error:
        run(steps=4, streams__text__batch_size=16)
    assert "--config.checkpoint.allow_changes=True" in str(error.value)
    workdir = run(steps=4, streams__text__batch_size=16, checkpoint__allow_changes=True)
    assert loop_runs.steps(workdir) == [2, 4]


def test_row_07_another_width_is_refused(run):
    run(steps=2)
    with pytest.raises(ValueError, match=r"patch_embed/bias: \(8,\) in the file, \(4,\) wanted"):
        run(steps=4, model={"name": "tests.tiny", "width": 4}, checkpoint__allow_changes=True)


def test_row_06_a_damaged_checkpoint_is_refused_or_passed_over(run, caplog):
    workdir = run(steps=4)
    for path in (workdir / "checkpoints" / "4" / "params").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0x40
            path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"checkpoints/4"):
        run(steps=6)
    run(steps=6, checkpoint__allow_fallback=True)
    assert "Going back to step 2" in caplog.text


@pytest.mark.slow
def test_row_11_non_finite_losses_stop_the_run_and_name_themselves(run, caplog):
    letter = int(tokenizer.load("bytes").encode("e", 8).ids[1])
    poison = {"name": "tests.tiny", "kind": "poison", "word": letter}
    objectives = {"mlm": 1.0, "poison": poison}
    with pytest.raises(nonfinite.NotFinite, match="loss 'poison' of stream 'text' is nan") as error:
        run(steps=6, streams__text__objectives=objectives, nonfinite={"max_in_a_row": 2})
    assert "2 steps in a row" in str(error.value)
    [account, _, *_] = sorted(pathlib.Path(str(error.value).split("See ")[1]).parent.glob("nonf*"))
    found = json.loads(account.read_text())
    assert found["step"] == 1
    assert "text/poison" in found["not_finite"]
    assert found["grad_norms"]["grad_norm/all"] == "nan"
    assert len(found["rng"]) == 2
    assert len(found["records"]["text"]) == 8


def test_descriptions_of_what_was_not_finite():
    nan = float("nan")
    assert nonfinite.describe({"text/mlm": nan, "loss/all": nan, "image/mim": 1.0}) == (
        "loss 'mlm' of stream 'text' is nan"
    )
    assert nonfinite.describe({"text/mlm": 1.0, "grad_norm/b": nan, "grad_norm": nan}) == (
        "every loss is finite, the gradient of group b is not"
    )


@pytest.mark.slow
def test_evaluation_in_the_run_picks_the_best_checkpoint(run, caplog):
    changes = dict(
        evaluate={"every": 2, "at_end": True, "params": "params"},
        checkpoint={
            **loop_runs.config().checkpoint.plain(),
            "keep": 1,
            "best": "words/size",
            "best_mode": "max",
        },
        optimizer__lr=0.0,
    )
    changes["evaluate"]["evaluators"] = {"words": {"name": "tests.tiny", "scale": 2.0}}
    workdir = run(steps=6, **changes)
    values = [line["words/size"] for line in loop_runs.lines(workdir) if "words/size" in line]
    assert len(values) == 3
    assert len(set(values)) == 1
    assert "words/size" in caplog.text  # the table
    caplog.clear()
    changes["optimizer__lr"] = 0.01
    run(steps=6, mode=train.evaluate, **changes)
    assert "words/size" in caplog.text
    with pytest.raises(ValueError, match="nothing to evaluate"):
        run("empty", mode=train.evaluate, **changes)


@pytest.mark.slow
def test_a_run_may_start_from_the_parameters_of_another(run):
    before = run("before", steps=2)
    workdir = run("after", steps=1, init={"path": str(before)}, optimizer__lr=0.0)
    loop_runs.same_params(workdir, before)
    wider = {"name": "tests.tiny", "vocab_size": 300}
    with pytest.raises(ValueError, match=r"word/embedding: \(261, 8\) in the file, \(300, 8\)"):
        run("wider", steps=1, init={"path": str(before)}, model=wider)
    init = {"path": str(before), "allow": ["word/.*"]}
    workdir = run("wider", steps=1, init=init, model=wider, optimizer__lr=0.0)
    old, new = checkpoint.load_params(before), checkpoint.load_params(workdir)
    assert new["word"]["embedding"].shape == (300, 8)
    np.testing.assert_array_equal(new["text"]["mlp_in"]["kernel"], old["text"]["mlp_in"]["kernel"])


@pytest.mark.slow
def test_the_report_is_written(run):
    workdir = run(steps=2, report=True)
    assert "<html" in (workdir / "report.html").read_text()


def test_progress_line():
    values = {
        "pairs/itc": 2.5,
        "pairs/itm": 0.625,
        "pairs/itm/accuracy": 0.75,
        "text/mlm": 5.0,
        "loss/all": 8.1,
        "grad_norm": 1.0,
        "samples_per_second": 1234.4,
        "data_wait": 0.034,
    }
    assert metrics.progress_line(50, 1600, values, left=3723) == (
        "step 50/1600 | pairs itc 2.500 itm 0.625 | text mlm 5.000 | 1234 samples/s | "
        "ETA 1:02:03 | data wait 3%"
    )
    assert metrics.duration(7) == "0:07"


def test_the_log_drops_what_came_after_the_restored_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n{"step": 3, "a": 3.0}\n{"st')
    log = metrics.Log(tmp_path, total_steps=9, start_step=2, samples_per_step=4, tensorboard=False)
    log.write(3, {"a": float("nan")})
    assert path.read_text().splitlines() == [
        '{"step": 1, "a": 1.0}',
        '{"step": 2, "a": 2.0}',
        '{"step": 3, "a": "nan"}',
    ]


def test_tensorboard_files_are_written(tmp_path):
    log = metrics.Log(tmp_path, total_steps=9, start_step=0, samples_per_step=4)
    log.write(3, {"text/mlm": 1.5})
    log.close()
    [file] = (tmp_path / "tensorboard").iterdir()
    assert b"text/mlm" in file.read_bytes()


@pytest.mark.slow
def test_B6_a_run_whose_workdir_was_taken_over_saves_nothing_more(run, tmp_path):
    folder = tmp_path / "taken"
    with workdir.lock(folder) as old:
        fit = functools.partial(train.train, lock=old)
        run("taken", steps=2, mode=fit)
        with workdir.lock(folder, force=True), pytest.raises(workdir.LockLost, match="was taken"):
            run("taken", steps=6, mode=fit)
    assert loop_runs.steps(folder) == [2]


@pytest.mark.slow
def test_two_real_processes_train_like_one(run, tmp_path):
    """Over gloo, as on a pod: each loads its half of every batch and holds half of the state."""
    port = _free_port()
    command = [sys.executable, "-m", "unified_fm.main", "--config=tests/tiny_config.py:4"]
    command += [f"--workdir={tmp_path / 'two'}", f"--coordinator=127.0.0.1:{port}"]
    command += ["--config.mesh.fsdp=2", "--config.rules.sharding=fsdp"]
    processes = [
        subprocess.Popen(
            [*command, f"--process={i}/2"],
            cwd=ROOT,
            env=ONE_DEVICE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    assert "start this on all 2 workers" in errors[1]
    one = loop_runs.lines(run("one", steps=4))
    two = loop_runs.lines(tmp_path / "two")
    for got, want in zip(two, one, strict=True):
        for name in ("text/mlm", "image/mim", "grad_norm"):
            assert got[name] == pytest.approx(want[name], rel=1e-5)
    assert loop_runs.steps(tmp_path / "two") == [2, 4]


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
def test_D9_skipped_records_reach_the_log_and_the_report(run, tmp_path, caplog):
    texts = [{"text": "" if k == 7 else f"text {k}"} for k in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, texts)))
    source = f"jsonl:{tmp_path}/t.jsonl"
    folder = run(streams__text__source=source, report=True, evaluate__at_end=False)
    where = f"record 7 of {source} ({tmp_path}/t.jsonl, line 8)"
    assert f"stream 'text' skips {where}: empty text" in caplog.text
    assert "stream 'text', end of epoch 1: 39 used, 1 skipped (1 empty text)" in caplog.text
    # Among the last lines; batches loaded ahead are counted.
    (last,) = re.findall(r"records of text: \d+ used, \d+ skipped \(\d+ empty text\)", caplog.text)
    assert caplog.text.index(last) > caplog.text.index("step 6/6")
    assert re.search(r"records of image: \d+ used, 0 skipped", caplog.text)
    page = (folder / "report.html").read_text()
    assert re.search(r"\d+ used, \d+ skipped \(\d+ empty text\)</td>", page)
    assert re.search(r"\d+ used, 0 skipped</td>", page)
