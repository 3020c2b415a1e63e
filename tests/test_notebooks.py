"""The notebooks of docs/colab: clean files of names that exist; and every cell, from the wheel.

The last are marked notebook: they need requirements/notebooks.txt.
"""

import ast
import configparser
import importlib
import json
import os
import pathlib
import re
import shlex
import sysconfig
import venv
import zipfile

import pytest

import unified_fm
from tests import built_wheel
from unified_fm import cli
from unified_fm.inference.model import Model

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "colab"
NAMES = sorted(file.stem for file in FOLDER.glob("*.ipynb"))
OF_JAX = "Metadata-Version: 2.1\nName: jax\nVersion: {}\n"
LONG = 600  # seconds of a cell, on a busy machine
ELSEWHERE = re.compile(r"/(work|root|home|tmp|content|Users|mnt)\b|https?:|share=|\btoken\b|login")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@pytest.fixture(params=NAMES)
def notebook(request):
    return json.loads((FOLDER / f"{request.param}.ipynb").read_text())


def sources(notebook: dict, kind: str = "code") -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def python(source: str) -> str:
    """A cell without its magics; of one that writes a Python file the file."""
    head, _, rest = source.partition("\n")
    if head.startswith("%%"):
        return rest if head.startswith("%%writefile") else ""
    lines = source.replace("\\\n", "").split("\n")
    return "\n".join("" if line.startswith("%") else line for line in lines)


def commands(notebook: dict) -> list[list[str]]:
    """The words of every `unified-fm ...` in a shell cell."""
    cells = [source for source in sources(notebook) if source.startswith("%%bash\n")]
    lines = "\n".join(cells).replace("\\\n", " ").split("\n")
    found = (re.search(r"unified-fm .*", line) for line in lines)
    return [shlex.split(match[0]) for match in found if match]


def test_there_are_four_and_the_docs_name_them():
    assert NAMES == ["fine_tune", "inference", "merging", "own_data"]
    pages = (ROOT / "README.md").read_text() + (ROOT / "docs" / "inference.md").read_text()
    assert [f"docs/colab/{name}.ipynb" in pages for name in NAMES] == [True] * len(NAMES)


def test_a_file_holds_no_outputs_and_nothing_of_a_machine(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == METADATA
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch("[a-z-]+", name) for name in ids)
    for cell in notebook["cells"]:
        kind = {"code": {"execution_count", "outputs"}, "markdown": set()}[cell["cell_type"]]
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | kind
        assert cell["metadata"] == {} and not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not ELSEWHERE.search("".join(cell["source"])), cell["id"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_written_in_one_way(name):
    text = (FOLDER / f"{name}.ipynb").read_text()
    again = json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True)
    assert text == again + "\n"


def test_it_begins_with_what_it_shows_how_long_it_takes_and_the_installation(notebook):
    title, *_ = sources(notebook, "markdown")
    assert re.match(r"# .+\n\nShows: .+", title) and "\nTakes: " in title
    install, settings, *_ = sources(notebook)
    assert f'"unified_fm-{unified_fm.__version__}-py3-none-any.whl"' in install
    assert '\n%pip install --quiet "{WHEEL}"' in install and "jax" not in install
    assert 'SMALL = os.environ.get("SMALL") == "1"' in settings


def test_the_packages_of_the_demo_are_those_of_the_extra(notebook):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extra = setup["options.extras_require"]["demo"].split()
    named = re.findall(r"\S+==\S+", sources(notebook)[0])
    assert {*named} <= {*extra}
    assert bool(named) == any("demo" in source for source in sources(notebook)[1:])


def test_every_name_of_the_library_exists(notebook):
    kinds: dict[str, object] = {}
    code = "\n".join(map(python, sources(notebook)))
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            kinds |= {a.asname or a.name: importlib.import_module(a.name) for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            for a in node.names:
                kinds[a.asname or a.name] = imported(str(node.module), a.name)
        elif isinstance(node, ast.Assign) and "unified_fm.load(" in ast.unparse(node.value):
            for target in ast.walk(node.targets[0]):
                if isinstance(target, ast.Name):
                    kinds[target.id] = Model
    used = [
        (kinds[node.value.id], node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in kinds
    ]
    assert used
    assert not [f"{kind} has no {name}" for kind, name in used if not hasattr(kind, name)]


def imported(module: str, name: str) -> object:
    if module.startswith("IPython"):  # of the notebook itself
        return None
    found = importlib.import_module(module)
    return getattr(found, name, None) or importlib.import_module(f"{module}.{name}")


def test_every_command_is_a_verb_with_a_config_that_is_there(notebook):
    written = re.findall(r"^%%writefile (\S+)", "\n".join(sources(notebook)), re.M)
    for _, verb, *words in commands(notebook):
        assert verb in cli.VERBS
        named = [word.partition("=")[2] for word in words if word.startswith("--config=")]
        for name in named:
            spec = name.partition(":")[0].replace("$PRETRAINING", "quickstart")
            assert spec in written or (ROOT / "configs" / f"{spec}.py").is_file(), name
    for source in sources(notebook):
        lines = source.replace("\\\n", "").split("\n")
        assert lines[0] != "%%bash" or len(lines) == 2 or lines[1] == "set -e", source
        assert not source.startswith("!"), "a failed !command is no error of the cell"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built_wheel.build(tmp_path_factory.mktemp("sources"))


def metadata(folder: pathlib.Path, version: str) -> pathlib.Path:
    """A JAX that is installed in the folder, as far as pip can see."""
    about = folder / f"jax-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(OF_JAX.format(version))
    (about / "INSTALLER").write_text("pip\n")
    (about / "RECORD").write_text("")
    return folder


def jax_at_hand(folder: pathlib.Path, version: str) -> pathlib.Path:
    """A wheel of JAX that pip could take."""
    folder.mkdir()
    about = f"jax-{version}.dist-info"
    with zipfile.ZipFile(folder / f"jax-{version}-py3-none-any.whl", "w") as made:
        made.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: jax\nVersion: {version}\n"
        )
        tags = "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        made.writestr(f"{about}/WHEEL", tags)
        made.writestr(f"{about}/RECORD", "")
    return folder


def installed_by(name, wheel, newer, first=None) -> dict[str, str]:
    """{package: version} that the first cell of a notebook would install, pip says."""
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    found = {}
    for line in re.findall(r"^%pip (.*)$", sources(notebook)[0].replace("\\\n", ""), re.M):
        words = shlex.split(line.replace("{WHEEL}", str(wheel)))
        asked = [*words, "--dry-run", "--report", "-", "--no-index", "--find-links", newer]
        env = os.environ | {"PYTHONPATH": str(first or "")}
        report = json.loads(built_wheel.pip(*asked, env=env))
        found |= {
            one["metadata"]["name"].lower(): one["metadata"]["version"] for one in report["install"]
        }
    return found


def test_the_two_ways_to_install_are_these():
    ways = {name: sources(json.loads((FOLDER / f"{name}.ipynb").read_text()))[0] for name in NAMES}
    assert ways["fine_tune"] == ways["inference"] == ways["own_data"]
    assert ways["fine_tune"].startswith(ways["merging"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fine_tune", "merging"])
def test_the_installation_keeps_a_jax_that_works(name, wheel, tmp_path):
    newer = jax_at_hand(tmp_path / "newer", "0.12.99")
    assert "jax" not in installed_by(name, wheel, newer)
    older = metadata(tmp_path / "older", "0.9.0")  # so the test can tell
    assert installed_by(name, wheel, newer, first=older)["jax"] == "0.12.99"


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Variables under which the kernel `wheel` runs: an environment that has yet to be installed.

    What the library needs of others lies beside it, as on Colab; no index is asked.
    """
    kernel = pytest.importorskip("ipykernel", reason="pip install -r requirements/notebooks.txt")
    place = tmp_path_factory.mktemp("environment")
    venv.create(place / "venv", symlinks=True)
    [site] = (place / "venv" / "lib").glob("python*/site-packages")
    beside = [sysconfig.get_path("purelib"), str(pathlib.Path(kernel.__file__).parents[1])]
    (site / "beside.pth").write_text("\n".join(dict.fromkeys(beside)) + "\n")
    spec = place / "jupyter" / "kernels" / "wheel"
    spec.mkdir(parents=True)
    argv = [str(place / "venv/bin/python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": argv, "display_name": "wheel", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(about))
    env = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "XLA_FLAGS")
    }
    env |= {
        "PATH": f"{place / 'venv/bin'}{os.pathsep}{env['PATH']}",
        "PIP_NO_INDEX": "1",
        "IPYTHONDIR": str(place / "ipython"),
        "JAX_PLATFORMS": "cpu",
        # Most of the time is the compiler's, for programs that run a few times.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "WHEEL": str(wheel),
        "SMALL": "1",
    }
    # One corpus for all; made here if there is none yet, as the quick start does.
    env.setdefault("UNIFIED_FM_DATA", str(ROOT / "data" / "demo"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(place / "jupyter"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(place / "runtime"))
        yield env
    assert (site / "unified_fm" / "__init__.py").exists()  # not that of the clone


def run(name, environment, folder, **variables):
    """Executes every cell in an empty folder; gives {id of a cell: what it has put out}.

    An error in a cell is an error here.
    """
    nbclient, nbformat = importlib.import_module("nbclient"), importlib.import_module("nbformat")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=LONG, kernel_name="wheel", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment | variables)
    return {cell.id: "".join(map(shown, cell.get("outputs", ()))) for cell in notebook.cells}


def shown(output) -> str:
    data = output.get("data", {})
    return (
        output.get("text", "") + data.get("text/plain", "") + "".join(f"<{kind}>" for kind in data)
    )


@pytest.fixture(scope="module")
def tuned(environment, tmp_path_factory):
    """(folder, outputs) of the first notebook; the others start from its checkpoint."""
    folder = tmp_path_factory.mktemp("fine_tune")
    return folder, run("fine_tune", environment, folder)


@pytest.mark.notebook
def test_fine_tuning_from_a_checkpoint(tuned):
    _, said = tuned
    assert re.search(r"test/testA/accuracy +\d+\.\d \+- \d+\.\d %", said["training"])
    assert re.search(r"by_place/testB/accuracy +\d+\.\d \+- \d+\.\d %", said["evaluation"])
    assert re.search(r"by_place-4\.jsonl", said["evaluation"])
    assert re.search(r"^the thing .* -> x \d+ to \d+, y \d+ to \d+ pixels", said["asking"])
    assert "<image/png>" in said["asking"]
    assert "pipeline_tag: zero-shot-object-detection\n" in said["card"]


@pytest.mark.notebook
@pytest.mark.nightly
def test_ones_own_pictures(tuned, environment, tmp_path):
    said = run("own_data", environment, tmp_path, RUN=str(tuned[0] / "runs" / "quickstart"))
    assert "uint8[32 48 48 3]" in said["batch"] and "<image/png>" in said["picture"]
    assert re.search(r"retrieval/image_to_text/r1 +\d+\.\d \+- \d+\.\d %", said["training"])
    assert "Hit(index=" in said["asking"]


@pytest.mark.notebook
@pytest.mark.nightly
def test_ten_methods(tuned, environment, tmp_path):
    said = run("inference", environment, tmp_path, RUN=str(tuned[0] / "runs" / "quickstart"))
    assert "'encode_image', 'encode_text', 'similarity', 'match'" in said["loading"]
    assert "(2, 64) (64,)" in said["features"] and "Hit(index=" in said["features"]
    assert "Box(x0=" in said["fusion"]
    assert "this checkpoint has no head or decoder for answers" in said["missing"]
    answers, captions = said["writing"].strip().split("\n")
    assert len(ast.literal_eval(answers)) == len(ast.literal_eval(captions)) == 2


@pytest.mark.notebook
def test_merging_in_a_loop_of_ones_own(environment, tmp_path):
    said = run("merging", environment, tmp_path)
    lines = [line.split(" ", 1) for line in said["merges"].strip().split("\n")]
    assert [name for name, _ in lines] == ["sum", "pcgrad", "cagrad", "igm"]
    assert all(ast.literal_eval(losses).keys() == {"waves", "steps"} for _, losses in lines)
