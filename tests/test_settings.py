"""The records of settings: read from plain dicts, written back as they were, described."""

import dataclasses
import json
import pathlib

import pytest

from unified_fm import main
from unified_fm.config import file as config_file
from unified_fm.config import python, records, settings, values
from unified_fm.config.settings import Mesh, Optimizer, Settings, Stream, Teacher

ROOT = pathlib.Path(__file__).parents[1]
ENTRY = {"max_len": 9, "pipeline": "text", "source": "a:b", "batch_size": 4, "objectives": {}}


def _all_records():
    return [
        kind
        for kind in vars(settings).values()
        if isinstance(kind, type) and issubclass(kind, records.Record)
    ]


def test_every_setting_says_what_it_is_and_has_a_type():
    for kind in _all_records():
        for field in dataclasses.fields(kind):
            hint = records.kinds(kind)[field.name]
            assert values.describe(hint) != "anything", (kind, field.name)
            about = field.metadata.get("about")
            assert about or records.record_in(hint), (kind, field.name)
            assert not about or 3 < len(about.text) < 80, (kind, field.name)


@pytest.mark.parametrize("path", ["configs/xfm_base.py", "configs/ufm_base.py:smoke"])
def test_settings_survive_json(path):
    made = config_file.load(str(ROOT / path))
    text = json.dumps(made.plain())
    again = Settings.of(json.loads(text))
    assert json.dumps(again.plain()) == text
    assert again.streams["text"].objectives == made.streams["text"].objectives


def test_an_entry_is_written_back_as_it_was_said():
    """What a checkpoint says of its streams must not change because a default is spelt out."""
    made = Stream.of(ENTRY, "config.streams.a")
    assert (made.max_skip, made.options) == (0.01, {"max_len": 9})
    assert list(made.plain().items()) == list(ENTRY.items())
    assert made.replace(cycle=2, batch_size=8).plain() == {**ENTRY, "cycle": 2, "batch_size": 8}
    explicit = {**ENTRY, "shuffle": True}
    assert Stream.of(explicit).plain() == explicit
    assert Teacher(path="x", streams=["a"]).plain() == {"path": "x", "streams": ["a"]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": {"lr": -1}}, "config.optimizer.lr must be a"),
        ({"optimizer": {"schedule": {"end": 2.0}}}, "config.optimizer.schedule.end must be a"),
        (
            {"optimizer": {"schedule": {"nam": "x"}}},
            "config.optimizer.schedule has no key 'nam'",
        ),
        ({"streams": {"a": {**ENTRY, "cycle": -1}}}, "config.streams.a.cycle must be an integer"),
        ({"streams": {"a": {"pipeline": "text"}}}, "config.streams.a has no 'source'; found pip"),
        ({"streams": {"a": 3}}, "config.streams.a is a dict, found 3"),
        ({"streams": 3}, "config.streams must be dict, found 3"),
        ({"mesh": {"data": 0}}, "config.mesh.data must be an integer of at least 1, or -1"),
        (
            {"mesh": {"fsdp": -1}},
            "config.mesh: at most one size is -1 (the rest), found data, fsdp",
        ),
        ({"teachers": {"t": {"config": {"lr": 1}}}}, "config.teachers.t.config has no key 'lr'"),
        ({"spikes": {"window": 1}}, "config.spikes.window must be an integer of at least 2, or 0"),
        ({"spikes": {"policy": "drop"}}, "config.spikes.policy is 'clip' or 'skip', found 'drop'"),
        ({"watchdog": {"minutes": -1}}, "config.watchdog.minutes must be an integer of at least 0"),
        ({"init": {"pth": "x"}}, "config.init has no key 'pth'; did you mean 'path'?"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(given, message):
    with pytest.raises((ValueError, TypeError)) as error:
        Settings.of(given)
    assert message in str(error.value)


def test_a_record_made_in_python_is_checked_as_well():
    with pytest.raises(ValueError, match=r"^lr must be a number of at least 0, found -0.1"):
        Optimizer(lr=-0.1)
    with pytest.raises(TypeError, match=r"^fsdp must be int, found 1\.5"):
        Mesh(fsdp=1.5)
    with pytest.raises(ValueError, match=r"^total_steps must be an integer of at least 1"):
        Settings().replace(total_steps=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().seed = 3


def test_a_config_is_found_by_its_bare_name(tmp_path, monkeypatch):
    assert config_file.load("quickstart:smoke").total_steps == 6
    with pytest.raises(ValueError, match="no config is named 'quikstart'; did you mean 'quickst"):
        python.read("quikstart")
    for folder, steps in (("installed/configs", 7), ("configs", 8)):
        (tmp_path / folder).mkdir(parents=True)
        text = f"def get_config():\n    return {{'total_steps': {steps}}}\n"
        (tmp_path / folder / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert python.read("mine") == {"total_steps": 8}
    monkeypatch.setattr(python, "_LIBRARY", tmp_path / "installed")
    assert python.read("mine") == {"total_steps": 7}  # the library's own name means its own file


def test_help_prints_flags_keys_and_how_to_override(capsys):
    assert main.main(["main", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--workdir=None       where checkpoints and metrics go" in out
    assert "optimizer.lr=0.0001" in out and "peak learning rate [float, of at least 0]" in out
    assert "streams.NAME.max_skip=0.01" in out and "teachers.NAME.cache=None" in out
    assert "--config.KEY=VALUE sets one key" in out
    assert "total_steps=1000" in out and "steps of the run, or '15 epochs'" in out
    assert "of=RUN or init: those there too" in out
    for kind, place in ((Settings, ""), (Optimizer, "optimizer."), (Stream, "streams.NAME.")):
        for field in dataclasses.fields(kind):
            assert f"  {place}{field.name}" in out or field.name == kind.rest
