import json
import threading

import pytest

from tests.loop_runs import no_large_files
from unified_fm.runtime import log as metrics


def _log(folder, **options):
    options = {"tensorboard": False, "total_steps": 100, **options}
    return metrics.Log(folder, start_step=0, samples_per_step=10, every=10, **options)


def test_A6_an_evaluation_on_an_unlogged_step_leaves_the_speed_true(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    lines = []
    monkeypatch.setattr(metrics._log, "info", lines.append)
    log = _log(tmp_path)
    for step in range(1, 41):
        now[0] += 1.0  # a second for a step of ten samples
        if log.due(step):
            log.train(step, {}, {})
        if step % 8 == 0:
            with log.paused():
                now[0] += 30.0
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["samples_per_second"] for line in found] == [10.0] * 4
    assert "ETA 1:00" in lines[-1]  # 60 steps are left


def test_B3_a_full_disk_is_a_warning(tmp_path, caplog):
    log = _log(tmp_path, tensorboard=True)
    log.write(1, {"loss": 1.0})
    with no_large_files():
        for step in range(2, 200):
            log.write(step, {"loss": 1.0, "a_rather_long_name_of_a_number": float(step)})
        assert not log.flush()
    assert log.flush()
    log.close()
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in found] == list(range(1, 200))
    assert caplog.text.count("metrics.jsonl could not be written") == 1
    assert log.failures["metrics.jsonl"] > 100


def test_B3_tensorboard_on_a_full_disk_does_not_hang(tmp_path):
    log = _log(tmp_path, tensorboard=True)
    done = threading.Event()

    def write():
        with no_large_files():
            for step in range(100):
                log.write(step, {f"name_{n}": 1.0 for n in range(50)})
        log.close()
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert done.wait(100)
    assert log.failures["TensorBoard"] == 1


def test_B3_what_an_earlier_run_wrote_is_dropped_once_there_is_room(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step, "loss": 0.123456789, "run": "before"}) for step in range(9)]
    path.write_text("\n".join(rows) + "\n")
    with no_large_files():
        log = metrics.Log(
            tmp_path, total_steps=9, start_step=4, samples_per_step=1, tensorboard=False
        )
    log.write(5, {"run": 2.0})
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in found] == [0, 1, 2, 3, 4, 5]


def test_bytes_that_are_no_text_do_not_stop_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe{"step"\n{"step": 2}\n')
    _log(tmp_path)
    assert path.read_bytes() == b""  # of steps after the one to start from
    path.write_bytes(b'{"step": 0}\n\xff\xfe{"step"\n')
    _log(tmp_path)
    assert path.read_bytes() == b'{"step": 0}\n'


@pytest.mark.parametrize("every", [0, -1])
def test_a_log_of_every_no_step_is_refused(tmp_path, every):
    with pytest.raises(ValueError, match=r"log\.every must be at least 1"):
        metrics.Log(tmp_path, total_steps=1, start_step=0, samples_per_step=1, every=every)
