"""The wheel, installed alone and called from an empty folder: what a user without a clone has.

What it needs of others it finds in this environment, so that no index is asked.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

import unified_fm
from tests import built_wheel
from tests.tasks import official_files

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built_wheel.build(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def call(wheel, tmp_path_factory):
    """Runs the installed command in an empty folder."""
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("here")
    built_wheel.pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    env = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    env.pop("XLA_FLAGS", None)  # one device, as a user has; the tests' eight take longer
    # One corpus for all; made here if there is none yet, as the quick start does.
    env.setdefault("UNIFIED_FM_DATA", str(ROOT / "data" / "demo"))

    def run(*arguments, status=0, program=(site / "bin" / "unified-fm",)):
        command = [*program, *arguments]
        done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    run.here = here
    return run


def test_it_holds_the_library_and_its_configs_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    ours = {f"unified_fm/{f.relative_to(ROOT / 'unified_fm')}" for f in sources("unified_fm")}
    ours |= {f"unified_fm/configs/{f.relative_to(ROOT / 'configs')}" for f in sources("configs")}
    ours |= {"unified_fm/py.typed", "unified_fm/report/style.css"}
    pages = ("doctor/check", "doctor/show", "report/page", "scoreboard/page")
    ours |= {f"unified_fm/{page}.html.j2" for page in pages}
    assert {n for n in names if ".dist-info/" not in n} == ours


def sources(folder):
    return (ROOT / folder).rglob("*.py")


def test_the_command_tells_its_verbs_and_version(call):
    assert "    train " in call("--help")
    assert call("--version") == f"{unified_fm.__version__}\n"


def test_a_config_of_the_library_is_found_by_its_name(call):
    lines = call("show", "config", "--config=quickstart:smoke").splitlines()
    assert "total_steps = 6" in lines
    assert "teachers.bert.config.model.name = 'bert'" in call(
        "show", "config", "--config=ufm_quickstart:smoke"
    )
    assert "evaluate.evaluators.mismatched.source = 'glue:data/glue/MNLI:dev_mismatched'" in call(
        "show", "config", "--config=finetune/glue:mnli", "--config.init=scratch"
    )


@pytest.fixture(scope="module")
def quickstart(call):
    """Lines of the log of a run that was made from the wheel, in the folder x."""
    before = {*call.here.iterdir()}
    call("train", "--config=quickstart:smoke", "--workdir=x")
    assert {*call.here.iterdir()} - before == {call.here / "x"}
    return (call.here / "x" / "metrics.jsonl").read_text().splitlines()


@pytest.mark.nightly
def test_the_quick_start_runs_anywhere(call, quickstart):
    assert "grounding/mean_iou" in " ".join(json.loads(quickstart[-1]))
    assert (call.here / "x" / "report.html").exists()


@pytest.mark.nightly
def test_a_run_is_asked_evaluated_and_described_anywhere(call, quickstart):
    Image.new("RGB", (40, 30), (200, 10, 10)).save(call.here / "red.png")
    [line] = call("predict", "--run=x", "--task=match", "--text=a pear", "red.png").splitlines()
    assert 0 <= json.loads(line)["probability"] <= 1
    script = "import unified_fm, sys; print(unified_fm.load('x').locate('red.png', 'a pear'))"
    assert call("-c", script, program=(sys.executable,)).startswith("Box(x0=")
    call("evaluate", "--run=x", "--source=demo:scenes/val", "--as=retrieval")
    said = (call.here / "x" / "predictions" / "retrieval-6.json").read_text()
    assert json.loads(said)["source"] == "demo:scenes/val"
    assert "model-index" in call("card", "--run=x", "--out=-")
    if importlib.util.find_spec("gradio") is None:
        assert "pip install" in call("serve", "--run=x", status=2)


@pytest.mark.nightly
def test_a_scoreboard_is_made_anywhere(call, quickstart):
    call("scoreboard", "--init=x", "--tasks=sentiment-demo", "--seeds=1", "--out=board")
    rows = json.loads((call.here / "board" / "scoreboard.json").read_text())["rows"]
    assert [row["labels"] for row in rows] == ["100", "1000"]
    assert all(row["scratch"] and row["pre_trained"] and row["trivial"] for row in rows)
    assert "<svg" in (call.here / "board" / "scoreboard.html").read_text()


def test_official_files_are_scored_anywhere(call):
    official_files.write_nlvr2(call.here / "nlvr2")
    rows = [f"{name},True" for name, _ in official_files.NLVR2]
    (call.here / "said.csv").write_text("\n".join(rows) + "\n")
    given = ["--task=nlvr2", "--predictions=said.csv", "--truth=nlvr2/dev.json"]
    assert json.loads(call("score", *given))["metrics"]["accuracy"]["value"] == 0.5
