"""What a file of somebody else's may run: nothing."""

import json
import pathlib
import sys

import pytest

from unified_fm import main, plugins
from unified_fm.config import saved
from unified_fm.config.settings import Teacher
from unified_fm.teachers import transform as teachers

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'tests' / 'tiny_config.py'}"
MODULE = """
import pathlib
pathlib.Path({marker!r}).write_text("it ran")
from unified_fm.models.bert import Model
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A run's folder whose config names a module that lies beside it; and the mark of its run."""
    marker = tmp_path / "marker"
    package = tmp_path / "stranger_for_saved"
    package.mkdir()
    for file in ("__init__.py", "model.py"):
        (package / file).write_text(MODULE.format(marker=str(marker)))
    run = tmp_path / "run"
    run.mkdir()
    sizes = {"vocab_size": 40, "text": {"layers": 1, "width": 8, "heads": 2, "mlp_width": 8}}
    model = {"name": "stranger_for_saved.model", **sizes}
    # What it says about itself counts nothing.
    (run / "config.json").write_text(json.dumps({"model": model, "plugins": [package.name]}))
    monkeypatch.syspath_prepend(tmp_path)
    yield run, marker
    for name in [name for name in sys.modules if name.startswith("stranger_for_saved")]:
        del sys.modules[name]


def _teachers(run, modules=()):
    return teachers.build({"old": Teacher(path=str(run), streams=["text"])}, modules)


def test_D1_a_saved_config_runs_no_module_that_the_user_has_not_named(stranger):
    run, marker = stranger
    with pytest.raises(plugins.Unnamed) as refusal:
        _teachers(run)
    assert "model.name names the plugin 'stranger_for_saved.model'" in str(refusal.value)
    assert "--plugins=stranger_for_saved" in str(refusal.value)
    for near in ("stranger_for", "stranger_for_saved.mod", "stranger_for_saved.model.x", "model"):
        with pytest.raises(plugins.Unnamed):
            _teachers(run, [near])
    assert not marker.exists()  # not even the package was imported, to look for the module in it
    assert not [name for name in sys.modules if name.startswith("stranger_for_saved")]


@pytest.mark.parametrize("module", ["stranger_for_saved", "stranger_for_saved.model"])
def test_D1_one_that_the_user_names_is_loaded(stranger, module):
    run, marker = stranger
    assert _teachers(run, ["other", module])["old"].model.vocab_size == 40
    assert marker.read_text() == "it ran"


def test_D1_a_plugin_of_the_library_needs_no_naming(tmp_path):
    model = {"name": "unified_fm.models.bert", "vocab_size": 41}
    (tmp_path / "config.json").write_text(json.dumps({"model": model}))
    assert _teachers(tmp_path)["old"].model.vocab_size == 41
    model["name"] = "unified_fm.main"
    (tmp_path / "config.json").write_text(json.dumps({"model": model}))
    with pytest.raises(plugins.Unnamed):
        _teachers(tmp_path)


def test_D1_the_flag_and_the_config_of_the_command_line_name_modules():
    _, config = main.parse(["main", CONFIG, "--workdir=w", "--plugins=my_project,other.losses"])
    assert config.plugins == ["my_project", "other.losses"]
    assert saved.modules_of(config.plain()) == ["my_project", "other.losses", "tests.tiny"]
    for wrong in ("a/b", "a b", "a..b", ".a"):
        with pytest.raises(main.Refused, match="plugins names modules like my_project"):
            main.parse(["main", CONFIG, "--workdir=w", f"--plugins={wrong}"])


@pytest.mark.parametrize(
    "content",
    [
        {"merge": {"name": "a.b"}},
        {"streams": {"x": {"pipeline": "a.b"}}},
        {"streams": {"x": {"source": "jsonl:f+a.b:f"}}},
        {"streams": {"x": {"source": ["jsonl:f", "a.b:f"]}}},
        {"streams": {"x": {"source": "few:5%:a.b:f"}}},
        {"streams": {"x": {"source": "few:5%:jsonl:f+a.b:f"}}},
        {"streams": {"x": {"source": ["jsonl:f", "few:3:few:5%:a.b:f[:90%]"]}}},
        {"streams": {"x": {"source": "unified_fm.data.sources.few:5%:a.b:f"}}},
        {"streams": {"x": {"objectives": {"a.b": 1.0}}}},
        {"streams": {"x": {"objectives": {"y": {"name": "a.b"}}}}},
        {"evaluate": {"evaluators": {"a.b": {}}}},
        {"evaluate": {"evaluators": {"y": {"name": "mlm", "train_source": "a.b:x"}}}},
        {"evaluate": {"evaluators": {"losses": {"streams": {"x": {"pipeline": "a.b"}}}}}},
        {"teachers": {"t": {"config": {"model": {"name": "a.b"}}}}},
        {"teachers": {"t": {"model": [{"name": "a.b"}]}}},
    ],
)
def test_D1_a_plugin_is_found_wherever_a_config_may_name_one(content, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(plugins.Unnamed, match=r"the plugin 'a\.b'.*--plugins=a$"):
        saved.read(tmp_path, ["b"])
    assert saved.read(tmp_path, ["a"])["plugins"] == ["a"]


def test_D1_names_of_files_are_no_plugins(tmp_path):
    sources = ["few:5%:karpathy:a.json:train@x", "coco:a.json:b.json@c", "jsonl:a.b:c"]
    (tmp_path / "config.json").write_text(json.dumps({"source": sources}))
    assert saved.read(tmp_path, [])["source"] == sources


def test_D1_all_sources_that_hold_another_are_looked_into():
    folder = ROOT / "unified_fm" / "data" / "sources"
    opens = {f.stem for f in folder.glob("*.py") if "open_source(" in f.read_text()}
    assert opens == set(saved._HOLDING)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe{", b"[" * 50_000, b'{"a":' * 500 + b"1" + b"}" * 500, b"[]", b"3", b'{"model": 3}'],
)
def test_D1_what_is_no_config_is_a_plain_refusal(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        _teachers(tmp_path)


def test_D1_nothing_else_reads_the_config_of_a_run():
    """`convert` reads those of Hugging Face, which name models of a closed list."""
    # Reads it; writes it; looks when it was written; asks what kind of folder it is.
    allowed = {"config/saved.py", "train.py", "runtime/surroundings.py", "inference/places.py"}
    for folder in ("unified_fm", "tools", "experiments"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT / folder).as_posix()
            if path in allowed or "convert" in path:
                continue
            named = '"config.json"' in file.read_text()
            assert not named, f"{file}: a saved config is read by config.saved alone"


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".txt", ""])
def test_row_22_a_config_that_is_no_python_file_is_never_run(suffix, tmp_path):
    marker = tmp_path / "marker"
    file = tmp_path / f"config{suffix}"
    file.write_text(f"open({str(marker)!r}, 'w')\ndef get_config():\n    return {{}}\n")
    with pytest.raises(main.Refused, match=r"no Python file .*\.py"):
        main.parse(["main", f"--config={file}", "--workdir=w"])
    assert not marker.exists()


def test_row_22_a_python_config_lying_about_is_not_run(tmp_path, monkeypatch):
    """In the workdir, in the folder one stands in, or beside the config: only --config counts."""
    marker = tmp_path / "marker"
    text = f"open({str(marker)!r}, 'w')\n"
    for name in ("config.py", "tiny_config.py", "sitecustomize.py"):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    main.parse(["main", CONFIG, f"--workdir={tmp_path}"])
    with pytest.raises(main.Refused, match=r"--config=\.\.\. is missing"):
        main.parse(["main", f"--workdir={tmp_path}"])
    assert not marker.exists()
