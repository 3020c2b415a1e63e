"""What CONTRIBUTING.md says of adding things: its files, outside the repository, its commands."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"^`(my_project/\w+\.py)`:\n\n```python\n(.*?)^```$", PAGE, re.M | re.S))
COMMANDS = re.findall(r"^    unified-fm (.*)$", PAGE, re.M)
FOLDERS = re.findall(r"^\| (`[^|]*) \|", PAGE, re.M)


def test_the_page_adds_one_file_for_each_kind():
    kinds = ["Source", "Objective", "Evaluator", "merge", "Pipeline", "get_config"]
    found = [
        [kind for kind in kinds if re.search(rf"^(class|def) {kind}\b", text, re.M)]
        for text in FILES.values()
    ]
    one = [["Source"], ["Objective"], ["Evaluator"], ["merge"], ["Objective", "Pipeline"]]
    assert found == [*one, ["get_config"]]


def test_every_folder_of_the_house_is_there_and_on_the_page():
    named = {name.strip("/") for cell in FOLDERS for name in re.findall(r"`([^`]*)`", cell)}
    there = {
        path.name for path in (ROOT / "unified_fm").iterdir() if (path / "__init__.py").exists()
    }
    assert there <= named
    assert all((ROOT / "unified_fm" / name).exists() for name in named)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command of the page in a folder that holds nothing but its files."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    def call(command):
        words = [
            sys.executable,
            "-c",
            "from unified_fm import cli; cli.run()",
            *shlex.split(command),
        ]
        env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        env.pop("XLA_FLAGS", None)  # one device, as a user has; the tests' eight take longer
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    call.folder = folder
    return call


@pytest.mark.slow
def test_a_source_an_objective_an_evaluator_a_merge_and_a_task_of_your_own(run):
    batch, params, train, evaluate = COMMANDS
    assert "    breadth             int32[16]                 0 .. 2\n" in run(batch)
    assert (run.folder / "batch.png").exists()
    assert re.search(r"^direction_head/kernel +32 2 ", run(params), re.M)

    run(train)
    lines = (run.folder / "runs/stripes/metrics.jsonl").read_text().splitlines()
    trained = json.loads(lines[-1])
    assert trained["right/right"] > 0.9
    assert trained["dev/task/breadth/accuracy"] > 0.9
    config = json.loads((run.folder / "runs/stripes/config.json").read_text())
    assert config["merge"] == {"name": "my_project.average"}

    said = run(evaluate)
    assert "right/right" in said
    assert "dev/task/breadth/accuracy" in said
