"""The wheel, installed alone and called from an empty folder: what a user without a clone has.

What it needs of others it finds in this environment, so that no index is asked.
"""

import json
import os
import pathlib
import subprocess
import zipfile

import pytest

import unified_fm
from tests import built_wheel

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

    def run(*arguments):
        command = [site / "bin" / "unified-fm", *arguments]
        done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.here = here
    return run


def test_it_holds_the_library_and_its_configs_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    ours = {f"unified_fm/{f.relative_to(ROOT / 'unified_fm')}" for f in sources("unified_fm")}
    ours |= {f"unified_fm/configs/{f.relative_to(ROOT / 'configs')}" for f in sources("configs")}
    ours |= {"unified_fm/py.typed", "unified_fm/report/page.html.j2"}
    ours |= {"unified_fm/report/style.css", "unified_fm/scoreboard/page.html.j2"}
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


@pytest.mark.nightly
def test_the_quick_start_runs_anywhere(call):
    call("train", "--config=quickstart:smoke", "--workdir=x")
    lines = (call.here / "x" / "metrics.jsonl").read_text().splitlines()
    assert "grounding/mean_iou" in " ".join(json.loads(lines[-1]))
    assert (call.here / "x" / "report.html").exists()
    assert sorted(file.name for file in call.here.iterdir()) == ["x"]
