import contextlib
import json
import socket
import threading
import time

import pytest

from tests.runtime.meeting import free_port, meet
from unified_fm.config import saved
from unified_fm.runtime import processes, roll_call
from unified_fm.runtime.processes import Place, Refused


def test_all_are_there_and_the_port_is_free_again():
    found = meet(3)
    assert found[0].keys() == {1, 2}
    assert found[1].keys() == found[2].keys() == {0}
    port = found[1][0]._socket.getpeername()[1]
    with socket.create_server(("", port)):  # as JAX does now, while the wires stay
        found[0][2].send({"still": "here"})
        assert found[2][0].receive() == [{"still": "here"}]
    for wires in found.values():
        for wire in wires.values():
            wire.close()


def test_C2_a_missing_worker_is_named_to_all_that_are_there():
    found = meet(4, here=[0, 1, 3], timeout=1)
    for refusal in found.values():
        assert isinstance(refusal, Refused)
        assert str(refusal).startswith(
            "3 of 4 workers are here; missing: 2; waited 1 s. Start this"
        )
        assert "Start this on all 4 workers at the same time" in str(refusal)


def test_C2_without_process_0_the_others_say_so():
    found = meet(2, here=[1], timeout=1)
    assert "worker 1 is here; missing: 0. 127.0.0.1:" in str(found[0])
    assert "start this on all 2 workers" in str(found[0]).lower()


def test_C2_a_host_that_does_not_exist_is_named():
    place = Place("a" * 70, 1234, 1, 2)  # too long for a name: nobody is asked
    with pytest.raises(Refused, match=r"aaa:1234: .*too long"):
        roll_call.hold(place, {}, timeout=0.5)


def test_C2_two_workers_of_one_number_and_another_total_are_refused():
    found = meet(3, here=[0, 1, 1], timeout=2)
    texts = "\n".join(map(str, found.values()))
    assert "there are two workers 1: " in texts
    assert "2 of 3 workers are here; missing: 2" in texts
    found = meet(2, here=[0, 1], counts={1: 3}, timeout=1)
    assert "worker 1 was started as one of 3, worker 0 as one of 2" in str(found[1])


def test_C2_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Refused, match=f"port {port}, on which the workers meet, cannot be"):
            roll_call.hold(Place("127.0.0.1", port, 0, 2), {}, timeout=1)


def test_strangers_and_workers_that_leave_disturb_nobody():
    port, found = free_port(), {}

    def worker(index):
        found[index] = roll_call.hold(Place("127.0.0.1", port, index, 2), {"a": 1}, timeout=30)

    hub = threading.Thread(target=worker, args=(0,))
    hub.start()
    hello = {"hello": "unified_fm", "index": 1, "count": 2, "who": "x", "facts": {"a": 1}}
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"", json.dumps(hello).encode()):
        _connect(port, words)  # the last one has said only half of a line
    worker(1)
    hub.join()
    assert found.keys() == {0, 1}
    for wires in found.values():
        for wire in wires.values():
            wire.close()


def _connect(port, words):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(words)
            return
        time.sleep(0.05)


def test_C1_a_worker_that_differs_is_named_with_both_values_to_all():
    config = {"optimizer": {"lr": 0.01}, "seed": 0, "streams": {"text": {"max_len": 16}}}
    other = {"optimizer": {"lr": 0.02}, "seed": 0, "streams": {"text": {}}}
    facts = {0: processes.facts(config), 1: processes.facts(config), 2: processes.facts(other)}
    facts[1] = facts[1] | {"version of numpy": "1.0", "unified_fm's code": "0badc0de"}
    found = meet(3, facts=facts)
    for refusal in found.values():
        assert isinstance(refusal, Refused)
        lines = str(refusal).splitlines()
        assert lines[0] == "the workers were not started alike:"
        assert "  worker 2 has config.optimizer.lr = 0.02, worker 0 has 0.01" in lines
        assert "  worker 2 has config.streams.text.max_len = nothing, worker 0 has 16" in lines
        assert any(x.startswith('  worker 1 has version of numpy = "1.0", worker') for x in lines)
        assert any(x.startswith('  worker 1 has unified_fm\'s code = "0badc0de"') for x in lines)
        assert "seed" not in str(refusal)


def test_C1_code_that_only_plugins_or_a_source_name_is_compared(tmp_path, monkeypatch):
    for package in ("only_named_c1", "source_c1"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "part.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    streams = {"text": {"source": ["source_c1.part:8", "jsonl:a.b"]}}
    config = {"plugins": ["only_named_c1", "not.there"], "streams": streams}
    before = processes.hashes_of(saved.modules_of(config))
    assert before.keys() == {"module only_named_c1", "module source_c1.part"}
    for name in before:
        (tmp_path / name.split()[1].split(".")[0] / "part.py").write_text("x = 2\n")
        now = processes.hashes_of(saved.modules_of(config))
        with pytest.raises(Refused, match=rf"worker 1 has {name}"):
            processes.alike([before, now])
        before = now


def test_C1_what_does_not_differ_is_alike():
    nan = {"config.x": float("nan"), "config.y": [1, 2]}
    processes.alike([nan, json.loads(json.dumps(nan))])
    a, b = {"a": 1, "b": {"c": 2}}, {"b": {"c": 2}, "a": 1}
    with pytest.raises(Refused, match="order of the settings"):
        processes.alike([processes.facts(a), processes.facts(b)])


@pytest.mark.parametrize(
    ("coordinator", "process", "message"),
    [
        ("localhost", "0/2", "HOST:PORT is the host of process 0 and a free port there"),
        ("localhost:", "0/2", "a port is a number of 1 to 65535"),
        ("localhost:http", "0/2", "a port is a number of 1 to 65535"),
        ("localhost:0", "0/2", "a port is a number of 1 to 65535"),
        ("localhost:70000", "0/2", "a port is a number of 1 to 65535"),
        ("http://host:1234", "0/2", r"found 'http://host:1234'"),
        ("::1:1234", "0/2", r"\[::1\]:1234"),
        (":1234", "0/2", "found ':1234'"),
        ("localhost:1234", "2/2", "of N = 2 processes the first is 0 and the last 1"),
        ("localhost:1234", "1", "two numbers .*found 1"),
        ("localhost:1234", "-1/2", "two numbers .*found -1/2"),
        ("localhost:1234", "a/b", "two numbers"),
        ("localhost:1234", "0/0", "of N = 0 processes"),
        ("localhost:1234", None, "--process=I/N lacks"),
        (None, "0/2", "--coordinator=HOST:PORT lacks"),
    ],
)
def test_C2_an_address_or_a_number_that_cannot_be_is_refused(coordinator, process, message):
    with pytest.raises(Refused, match=message):
        processes.place(coordinator, process)


def test_C2_addresses_that_can_be():
    assert processes.place("10.0.0.1:1234", "3/4") == Place("10.0.0.1", 1234, 3, 4)
    assert processes.place("[::1]:1", "0/1").address == "[::1]:1"
