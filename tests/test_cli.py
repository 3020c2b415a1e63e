"""The command `unified-fm`: its verbs, their help, and the old places of the tools."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

import unified_fm
from unified_fm import cli

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'tests' / 'tiny_config.py'}"


def test_neither_the_package_nor_the_list_of_verbs_needs_jax():
    script = (
        "import sys, unified_fm; from unified_fm import cli; cli.main(['--help']);"
        "print(unified_fm.__version__, 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"{unified_fm.__version__} False", done.stderr
    assert [f"    {verb} " in done.stdout for verb in cli.VERBS] == [True] * len(cli.VERBS)


def test_every_verb_is_a_module_and_every_module_with_a_main_is_a_verb():
    files = (ROOT / "unified_fm" / "commands").glob("*.py")
    assert {f.stem for f in files if "\ndef main(" in f.read_text()} == set(cli.VERBS)


def test_a_wrong_verb_is_refused_with_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert "no verb 'trian'; did you mean 'train'?" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{unified_fm.__version__}\n"


@pytest.mark.parametrize(
    "verb", ["bench", "convert", "data", "golden", "predict", "probe", "score", "show"]
)
def test_help_of_a_verb_is_under_its_name(verb, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([verb, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: unified-fm {verb} ")


@pytest.mark.parametrize("command", [["train"], ["evaluate"], ["bench", "step"], ["show", "batch"]])
def test_help_of_what_reads_a_config_has_every_key(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code in (0, None)
    said = capsys.readouterr().out
    assert "optimizer.lr=0.0001 " in said
    assert "--config.KEY=VALUE sets one key" in said


@pytest.mark.parametrize(
    ("tool", "verb"),
    [
        ("bench", "bench"),
        ("check_golden", "golden"),
        ("convert_checkpoint", "convert"),
        ("prepare_data", "data"),
        ("show_params", "show"),
    ],
)
def test_a_tool_in_its_old_place_is_the_verb(tool, verb):
    found = runpy.run_path(str(ROOT / "tools" / f"{tool}.py"))["main"]
    assert found.__module__ == f"unified_fm.commands.{verb}"


@pytest.mark.parametrize(("verb", "mode"), [("train", "train"), ("evaluate", "evaluate")])
def test_train_and_evaluate_are_the_command(verb, mode, monkeypatch):
    from unified_fm import main

    seen = []
    monkeypatch.setattr(main, "run", seen.append)
    cli.main([verb, CONFIG, "--workdir=w", "--config.seed=3"])
    [argv] = seen
    assert argv[0] == f"unified-fm {verb}"
    _, config = main.parse(argv)
    assert (config.mode, config.seed) == (mode, 3)


def test_a_refusal_is_the_exit_status_of_the_process():
    command = [sys.executable, "-c", "from unified_fm import cli; cli.run()", "train", CONFIG]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert (done.returncode, done.stderr) == (2, "refused: --workdir=... is missing\n")
