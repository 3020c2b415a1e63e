import json
import os
import pathlib
import subprocess
import sys

import pytest

from unified_fm import main
from unified_fm.config import file as config_file
from unified_fm.config.changes import data_changes

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'tests' / 'tiny_config.py'}"


def _parse(*flags):
    return main.parse(["main", CONFIG, "--workdir=w", *flags])[1].plain()


def test_a_config_is_complete_and_overridden():
    config = _parse(
        "--config.optimizer.lr=0.5",
        "--config.total_steps=7",
        "--config.streams.text.batch_size=4",
        "--config.ema=0.99",
        "--config.log.tensorboard=true",
        "--config.streams.text.source=jsonl:mine.jsonl",
    )
    assert config["optimizer"]["lr"] == 0.5
    assert config["optimizer"]["b2"] == 0.98  # a default
    assert config["total_steps"] == 7
    assert config["streams"]["text"]["batch_size"] == 4
    assert config["ema"] == 0.99
    assert config["log"]["tensorboard"] is True
    assert config["streams"]["text"]["source"] == "jsonl:mine.jsonl"


def test_the_argument_after_the_colon_reaches_the_config():
    _, config = main.parse(["main", f"{CONFIG}:9", "--workdir=w"])
    assert config.total_steps == 9


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.optimizer.learing_rate=1", "config.optimizer has no key 'learing_rate'"),
        ("--config.optimiser.lr=1", "no key 'optimiser'; did you mean 'optimizer'?"),
        ("--config.streams.txt.batch_size=1", "no key 'txt'; did you mean 'text'?"),
        ("--config.total_steps=many", "config.total_steps is 'many'; a duration is a number"),
        ("--config.optimizer.lr=fast", "config.optimizer.lr is 0.01 (float), so 'fast'"),
        ("--config.total_steps=0", "total_steps must be an integer of at least 1, found 0"),
        ("--config.seed", "with an equals sign"),
        ("--wrkdir=x", "unknown flag --wrkdir; did you mean 'workdir'?"),
        ("extra", "'extra' is no flag"),
        ("--config.optimizer.schedule.name=linaer", "Possible: constant, cosine, linear"),
        ("--config.rules.sharding=fdsp", "Possible: fsdp, replicate, tensor"),
        ("--config.mode=eval", "mode is 'train' or 'evaluate', found 'eval'"),
        ("--config.merge.name=summ", "did you mean 'sum'"),
        ("--config.xla=gpu-defalt", "config.xla is 'gpu-defalt'; did you mean 'gpu-default'?"),
        ("--config.model.wdth=3", "no option 'wdth'; did you mean 'width'?"),
    ],
)
def test_row_21_what_cannot_work_is_refused_with_the_nearest_name(flag, message):
    with pytest.raises(main.Refused) as refusal:
        _parse(flag)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(learning_rate=1), "config has no key 'learning_rate'"),
        (lambda c: c["optimizer"].update(beta1=1), "config.optimizer has no key 'beta1'"),
        (lambda c: c["model"].update(widht=3), "no option 'widht'; did you mean 'width'?"),
        (lambda c: c["model"].update(name="xmf"), "did you mean 'xfm'?"),
        (lambda c: c["streams"]["text"].update(objectives={"mlmm": 1}), "did you mean 'mlm'?"),
        (lambda c: c["streams"]["text"].update(objectives={}), "has no objectives"),
        (lambda c: c["streams"]["text"].pop("source"), "config.streams.text has no 'source'"),
        (
            lambda c: c["streams"]["image"].update(objectives={"mim": {"targt": "ema"}}),
            "no option 'targt'; did you mean 'target'?",
        ),
        (lambda c: c.update(streams={}), "config.streams is empty"),
        (lambda c: c.update(gradient_groups={"a": ["txt"]}), "did you mean 'text'?"),
        (lambda c: c.update(gradient_groups={"a": ["text"]}), "'image' is in 0 gradient groups"),
        (lambda c: c.update(mesh=8), "config.mesh is a dict, found 8"),
        (
            lambda c: c["evaluate"].update(evaluators={"retrieval": {"sauce": "x"}}),
            "no option 'sauce'; did you mean 'source'?",
        ),
        (lambda c: c["evaluate"].update(evaluators={"retrieval": {}}), "lacks source"),
    ],
)
def test_row_21_a_config_is_checked_before_anything_is_built(change, message):
    config = _parse()
    change(config)
    with pytest.raises((ValueError, TypeError)) as error:
        config_file.made(config)
    assert message in str(error.value)


def test_exit_code_and_message_of_a_refusal(capsys):
    assert main.main(["main", CONFIG, "--workdir=w", "--config.optimizer.lrr=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("refused: config.optimizer has no key 'lrr'; did you mean 'lr'?")
    assert not pathlib.Path("w").exists()
    assert main.main(["main", CONFIG]) == 2
    assert "--workdir=... is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (("--coordinator=localhost", "--process=0/2"), {}, "--coordinator=HOST:PORT is the host"),
        (("--process=2/2", "--coordinator=localhost:1"), {}, "the first is 0 and the last 1"),
        ((), {"SLURM_NTASKS": "2"}, "index None). Under SLURM, start it with srun; elsewhere give"),
        (("--distributed",), {}, "give each process --coordinator=HOST:PORT and --process=I/N"),
        (
            (),
            dict.fromkeys(("NTASKS", "JOB_ID", "STEP_NODELIST", "LOCALID"), "2") | {"PROCID": "x"},
            'not which of them this is (found: ValueError("invalid literal',
        ),
    ],
)
def test_C2_which_process_this_is_is_known_before_any_work(
    capsys, monkeypatch, flags, environment, message
):
    monkeypatch.setattr(main, "prepare_data", lambda settings: pytest.fail("data were prepared"))
    for name, value in environment.items():
        monkeypatch.setenv(f"SLURM_{name.removeprefix('SLURM_')}", value)
    assert main.main(["main", CONFIG, "--workdir=w", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("devices", ["", "--xla_force_host_platform_device_count=8"])
def test_simulated_devices_get_threads_to_wait_in(monkeypatch, devices):
    monkeypatch.setenv("XLA_FLAGS", devices)
    monkeypatch.delenv("NPROC", raising=False)
    main._give_threads()
    assert os.environ.get("NPROC") == ("128" if devices else None)


def test_no_device_is_touched_before_a_refusal():
    script = (
        "import sys, jax\n"
        "from unified_fm import main\n"
        f"code = main.main(['main', {CONFIG!r}, '--workdir=w', '--config.model.width=wide'])\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "width" in done.stderr


def test_a_broken_config_file_is_named(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(main.Refused, match="ZeroDivisionError"):
        main.parse(["main", f"--config={file}", "--workdir=w"])
    with pytest.raises(main.Refused, match=r"missing\.py"):
        main.parse(["main", "--config=missing.py", "--workdir=w"])


def test_data_changes_are_listed():
    before = _parse()
    now = _parse("--config.streams.text.max_len=9", "--config.optimizer.lr=3")
    assert data_changes(before, now) == ["streams.text.max_len: 16 -> 9"]
    assert data_changes(json.loads(json.dumps(before)), before) == []
