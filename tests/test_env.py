"""The environment script against a stand-in for Python and pip, and what the locks may hold."""

import ast
import configparser
import importlib.metadata
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
LOCKS = ["build.txt", "lock.txt", "demo.txt"]
PROJECT = ["setup.cfg", "setup.py"]

# Answers as Python does, but makes an empty .venv and only writes down what pip was asked for.
FAKE_PYTHON = """#!/usr/bin/env bash
case " $* " in
  *" -m venv "*) mkdir -p "${!#}/bin" && cp "$0" "${!#}/bin/python" ;;
  *" -m pip "*)
    echo "$*" >>"$CALLS"
    case "$*" in
      *"${FAIL_ON:-nothing at all}"*) echo "no matching distribution" && exit 1 ;;
      *"${WAIT_ON:-nothing at all}"*) until [ -e "$CALLS.go" ]; do sleep 0.05; done ;;
    esac ;;
  *"print(*sys.version_info"*) [ -n "${OLD:-}" ] && echo 3.9.1 || exec "$REAL" "$@" ;;
  *"exit(sys.version_info"*) [ -z "${OLD:-}" ] ;;
  *) exec "$REAL" "$@" ;;
esac
"""


class Checkout:
    """A folder with tools/env.sh, small locks and the stand-in."""

    def __init__(self, root: pathlib.Path):
        self.root, self.venv, self.calls = root, root / ".venv", root / "calls"
        (root / "tools").mkdir(parents=True)
        (root / "requirements").mkdir()
        shutil.copy(ROOT / "tools" / "env.sh", root / "tools")
        for name in LOCKS:
            (root / "requirements" / name).write_text("a==1 --hash=sha256:0\n")
        for name in PROJECT:
            (root / name).touch()
        python = root / "fake_python"
        python.write_text(FAKE_PYTHON)
        python.chmod(0o755)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("UNIFIED_FM")}
        self.env |= {"UNIFIED_FM_PYTHON": str(python), "CALLS": str(self.calls)}
        self.env["REAL"] = sys.executable

    def start(self, *command, **env) -> subprocess.Popen:
        return subprocess.Popen(
            [self.root / "tools" / "env.sh", *command],
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test run in the background (`pytest &`) would hand down that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *command, **env) -> tuple[int, str, str]:
        process = self.start(*command, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def installs(self) -> list[str]:
        """What pip was asked to install, one word each: a lock's name, or the project."""
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [re.sub(r".*/", "", call.split()[-1]) for call in calls]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "with space" / "checkout")


def wait_for(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("waited 60 s in vain")


def test_first_call_installs_and_second_does_not(checkout):
    show = ["bash", "-c", 'echo "$VIRTUAL_ENV" "$(command -v python)"; exit 7']
    expected = f"{checkout.venv} {checkout.venv}/bin/python\n"
    code, out, err = checkout.run(*show)
    assert (code, out) == (7, expected), err
    assert checkout.installs() == [*LOCKS, "checkout"]
    for call in checkout.calls.read_text().splitlines()[:3]:
        assert "--require-hashes" in call

    assert checkout.run(*show) == (7, expected, "")
    assert len(checkout.installs()) == 4


@pytest.mark.parametrize("name", ["requirements/lock.txt", *PROJECT])
def test_a_changed_lock_or_project_makes_it_anew(checkout, name):
    """An .venv of a project without the script `unified-fm` would never get it otherwise."""
    checkout.run("true")
    (checkout.venv / "old").touch()
    (checkout.root / name).write_text("a==2 --hash=sha256:0\n")
    assert checkout.run("true")[0] == 0
    assert len(checkout.installs()) == 8
    assert not (checkout.venv / "old").exists()


def test_a_moved_folder_makes_it_anew(checkout, tmp_path):
    checkout.run("true")
    moved = tmp_path / "moved"
    shutil.copytree(checkout.root, moved)
    checkout.root, checkout.venv = moved, moved / ".venv"
    assert checkout.run("true")[0] == 0
    assert len(checkout.installs()) == 8


@pytest.mark.parametrize("lock", LOCKS)
def test_a_failed_install_says_what_failed_and_leaves_nothing(checkout, lock):
    code, out, err = checkout.run("echo", "ran", FAIL_ON=lock)
    assert (code, out) == (1, "")
    assert "no matching distribution" in err
    assert "FAILED: installing the" in err.splitlines()[-1]
    assert not checkout.venv.exists()

    assert checkout.run("echo", "ran")[:2] == (0, "ran\n")


def test_an_interrupted_install_leaves_nothing(checkout):
    process = checkout.start("true", WAIT_ON="lock.txt")
    wait_for(lambda: "lock.txt" in checkout.installs())
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the whole foreground group
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not checkout.venv.exists()


def test_an_install_killed_outright_is_made_anew(checkout):
    process = checkout.start("true", WAIT_ON="lock.txt")
    wait_for(lambda: "lock.txt" in checkout.installs())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (checkout.venv / "half").touch()
    assert checkout.run("echo", "ran")[:2] == (0, "ran\n")
    assert not (checkout.venv / "half").exists()


def test_two_calls_at_once_install_once(checkout):
    first = checkout.start("echo", "ran", WAIT_ON="lock.txt")
    wait_for(lambda: "lock.txt" in checkout.installs())
    second = checkout.start("echo", "ran")
    assert "waiting for another" in second.stderr.readline()
    checkout.calls.with_suffix(".go").touch()
    assert [process.communicate(timeout=60)[0] for process in (first, second)] == ["ran\n"] * 2
    assert len(checkout.installs()) == 4


def test_the_demo_packages_can_be_left_out(checkout):
    assert checkout.run("true", UNIFIED_FM_DEMO="0")[0] == 0
    assert checkout.installs() == ["build.txt", "lock.txt", "checkout"]


def test_an_old_python_is_refused_with_a_sentence(checkout):
    code, _, err = checkout.run("true", OLD="1")
    assert code == 1
    assert "needs Python 3.11 or newer, but:" in err
    assert "fake_python is 3.9.1. Install one, or name it in UNIFIED_FM_PYTHON." in err
    assert not checkout.venv.exists()


def test_no_command_is_refused(checkout):
    assert checkout.run()[0] == 1
    assert checkout.installs() == []


@pytest.mark.parametrize("script", ["tools/env.sh", "tools/lock.sh", ".ci/run", ".ci/nightly"])
def test_scripts_parse_and_can_be_run(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert os.access(ROOT / script, os.X_OK)
    assert "set -euo pipefail" in (ROOT / script).read_text()


def pins(name: str) -> list[Requirement]:
    """The requirements of a lock, whose every line is of a known form (so: no URL, no host)."""
    found, hashes = [], 0
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if pin := re.fullmatch(r"([a-z][\w.-]*==[\w.]+(?: ; [\w'<>=!. ()]+)?) \\", line):
            assert not found or hashes, f"{found[-1]} has no hash"
            found.append(Requirement(pin[1]))
            hashes = 0
        elif re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line):
            hashes += 1
        else:
            assert re.fullmatch(r" *#[\w ./,():-]*", line), f"unexpected line: {line}"
            assert not re.search(r"://|\w\.(org|com|net|io)\b", line), f"a host: {line}"
    assert hashes
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_the_lock_meets_the_ranges_on_every_python(python, system):
    where = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system}
    where |= {"platform_system": system.title(), "implementation_name": "cpython"}
    chosen = {}
    for pin in pins("lock.txt"):
        if pin.marker is None or pin.marker.evaluate(where):
            assert pin.name not in chosen, f"{pin.name} twice"
            chosen[pin.name] = next(iter(pin.specifier)).version

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["dev"]
    for requirement in map(Requirement, wanted.split()):
        name = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(chosen[name]), f"{requirement}: {chosen[name]}"
    assert chosen["jax"].startswith("0.10.2" if python == "3.11" else ("0.11.", "0.12."))
    assert "torch" not in chosen


def imported_by_us() -> dict[str, set[str]]:
    """Top-level name -> files of the package that import it, anywhere in them."""
    found = {}
    for file in (ROOT / "unified_fm").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(file.name)
    return found


PUBLISHED = {path.name for path in (ROOT / "unified_fm/bench/published").glob("*.py")}


def test_what_is_imported_is_declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    declared = config["options"]["install_requires"]
    declared += "\n" + "\n".join(extras[name] for name in ("demo", "eval", "page", "prepare"))
    declared = {Requirement(line).name.lower().replace("_", "-") for line in declared.split()}
    of_import = importlib.metadata.packages_distributions()
    for name, files in imported_by_us().items():
        if name == "transformers" and files == {"verify.py"}:
            continue  # to compare outputs with, where it happens to be installed
        if name == "torch" and files <= PUBLISHED:
            continue  # to compare the step with, in a process of its own
        if name != "unified_fm" and name not in sys.stdlib_module_names:
            packages = {p.lower().replace("_", "-") for p in of_import.get(name, [name])}
            assert packages & declared, f"{name} of {files} is not in setup.cfg"


def test_the_type_checker_is_pinned_apart_from_the_lock():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    [wanted] = map(Requirement, config["options.extras_require"]["typing"].split())
    found = {pin.name: next(iter(pin.specifier)).version for pin in pins("typing.txt")}
    assert wanted.specifier.contains(found[wanted.name])
    assert wanted.name not in {pin.name for pin in pins("lock.txt")}


def test_hooks_and_workflow_run_the_locked_tools_only():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    stages = (ROOT / ".ci" / "run").read_text()
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"] in stages
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["run"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run", ".ci/nightly"]


def test_demo_packages_are_pinned_and_never_imported():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options.extras_require"]["demo"].split()
    assert sorted(f"{pin.name}{pin.specifier}" for pin in pins("demo.txt")) == sorted(wanted)

    # Their import names, but for the renderer, which is a library.
    data = {name.split("==")[0].replace("-", "_") for name in wanted} - {"resvg_py"}
    assert not imported_by_us().keys() & data
