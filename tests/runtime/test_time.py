"""Where a run's time goes, what is traced of it, and how long compiling takes."""

import pathlib
import re
import types

import jax
import pytest

from tests import loop_runs, tiny_config
from unified_fm import main, setup
from unified_fm.config import python
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.runtime import compile_times, profile, time_split


def test_each_second_is_counted_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time_split.time, "monotonic", lambda: now[0])
    spent = time_split.TimeSplit()

    def take(seconds):
        now[0] += seconds

    take(10)  # start
    with spent.on("compilation"):
        take(30)
    spent.begin()
    take(40)  # step
    with spent.on("evaluation"):
        take(5)
        with spent.on("data"):
            take(4)
        take(1)
    with pytest.raises(OSError), spent.on("checkpoint"):
        take(10)
        raise OSError
    assert spent.shares() == {
        "time/step": 0.4,
        "time/data": 0.04,
        "time/checkpoint": 0.1,
        "time/evaluation": 0.06,
        "time/compilation": 0.3,
        "time/start": 0.1,
    }
    assert spent.line() == (
        "step 40% (goodput), data 4%, checkpoint 10%, evaluation 6%, compilation 30%, start 10%"
    )


@pytest.mark.slow
def test_a_run_says_where_its_time_went(run, caplog):
    workdir = run(steps=4, report=True, checkpoint__every=2)
    line = loop_runs.lines(workdir)[-1]
    shares = {name: x for name, x in line.items() if name.startswith("time/")}
    assert set(shares) == {f"time/{part}" for part in time_split.PARTS}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["time/compilation"] > 0 and shares["time/checkpoint"] > 0
    assert re.search(r"time of this training: step \d+% \(goodput\)", caplog.text)
    assert "compiling the step" in caplog.text
    assert "(goodput)" in (workdir / "report.html").read_text()


@pytest.mark.parametrize(("text", "found"), [("10-13", (10, 13)), ("7", (7, 7))])
def test_steps_to_trace(text, found):
    assert profile.steps(text) == found


@pytest.mark.parametrize("text", ["13-10", "0-3", "some", "1-", "1:3"])
def test_steps_that_are_none_are_refused(text, capsys):
    arguments = ["train", "--config=quickstart", "--workdir=unused", f"--profile={text}"]
    assert main.main(arguments) == 2
    assert f"--profile={text}: a range of steps is meant" in capsys.readouterr().err


def test_a_trace_holds_the_steps_that_were_asked_for(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    for steps in ((2, 3), (3, 9), None):
        traced = profile.Profile(tmp_path, steps)
        for step in (1, 2, 3, 4):
            traced.before(step)
            calls.append(step)
            traced.after(step, {})
        traced.close()
        calls.append("end")
    assert calls == [
        *(1, "start", 2, 3, "stop", 4, "end"),
        *(1, 2, "start", 3, 4, "stop", "end"),
        *(1, 2, 3, 4, "end"),
    ]


def test_a_trace_that_fails_costs_no_step(tmp_path, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("no room for a trace")

    monkeypatch.setattr(jax.profiler, "stop_trace", fails)
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: None)
    traced = profile.Profile(tmp_path, (1, 2))
    traced.before(1)
    traced.close()
    assert "could not be written, the run goes on: no room for a trace" in caplog.text

    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append(1) or fails())
    traced = profile.Profile(tmp_path, (1, 2))
    for step in (1, 2):
        traced.before(step)
        traced.after(step, {})
    traced.close()
    assert calls == [1]
    assert "not traced, the run goes on: no room for a trace" in caplog.text


def test_steps_of_the_student_are_traced_and_not_those_of_its_teachers(tmp_path, monkeypatch):
    fitted = []

    def fit(settings, folder, stop, *, lock, profile=None):
        fitted.append((folder.name, profile))

    def teachers(settings, folder, stop, run):
        run(settings, folder / "teachers" / "bert", stop)
        return settings

    monkeypatch.setattr("unified_fm.train.train", fit)
    monkeypatch.setattr("unified_fm.teachers.runs.train", teachers)
    config = f"--config={pathlib.Path(__file__).parents[1] / 'tiny_config.py'}"
    assert main.main(["train", config, f"--workdir={tmp_path / 'run'}", "--profile=2-3"]) == 0
    assert fitted == [("bert", None), ("run", (2, 3))]


def test_nothing_is_traced_where_no_step_is_made(capsys):
    arguments = ["--config=quickstart", "--workdir=unused", "--config.mode=evaluate"]
    assert main.main(["train", *arguments, "--profile=2-3"]) == 2
    assert "--profile=2-3: steps of training are traced, and mode" in capsys.readouterr().err


def test_a_trace_of_a_real_step_can_be_read(tmp_path):
    traced = profile.Profile(tmp_path / "profile", (1, 1))
    traced.before(1)
    traced.after(1, jax.jit(lambda x: x @ x)(jax.numpy.ones((64, 64))))
    (file,) = (tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb")
    found = jax.profiler.ProfileData.from_file(str(file))
    assert any("CPU" in plane.name for plane in found.planes)


def test_a_time_of_compiling_is_that_of_its_program(monkeypatch):
    monkeypatch.setattr(compile_times, "compiled", lambda lower, program, *_: repr(program))
    made = Settings.of(python.plain(tiny_config.get_config()))

    def program(settings):
        bytes_ = tokenizers.load("bytes")
        ready = setup.prepare(settings, tokenizer=bytes_, devices=jax.devices()[:1])
        return ready.compiled_step({})

    others = [
        made.replace(accumulate=2),
        made.replace(xla="gpu-default"),
        made.replace(rules=made.rules.replace(sharding="fsdp")),
    ]
    assert program(made) == program(made)
    assert len({program(each) for each in [made, *others]}) == 4
    now = compile_times.key("text 12")
    monkeypatch.setattr("unified_fm.__version__", "0.0.0")
    assert compile_times.key("text 12") != now


def test_a_time_of_compiling_is_remembered_until_it_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_times, "_folder", lambda: tmp_path)
    one, other = compile_times.key("text 12"), compile_times.key("text 24")
    assert one != other
    assert compile_times.expected(one) is None
    compile_times.record(one, 87.04)
    compile_times.record(one, 1.5)  # read from the cache of compiled programs
    assert (compile_times.expected(one), compile_times.expected(other)) == (87.0, None)
    compile_times.record(one, 60.0)
    assert compile_times.expected(one) == 60.0
    (tmp_path / "unified_fm_times.json").write_text('{"half a fi')
    assert compile_times.expected(one) is None


def test_who_waits_for_the_compiler_is_told_how_long_that_usually_takes(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(compile_times, "_folder", lambda: tmp_path)
    made, params = object(), {"a": jax.numpy.zeros((20, 100))}
    stacks = {"text": types.SimpleNamespace(layers=12)}
    lowered = types.SimpleNamespace(compile=lambda: made)
    caplog.set_level("INFO")

    def first_line():
        caplog.clear()
        assert compile_times.compiled(lambda: lowered, "text 12", params, stacks) is made
        return caplog.records[0].getMessage()

    assert first_line() == "compiling the step (text 12 layers)"
    shapes = [(leaf.shape, leaf.dtype) for leaf in params.values()]
    compile_times.record(compile_times.key("text 12", shapes), 87.04)
    assert first_line() == "compiling the step (text 12 layers); usually 87 s"
