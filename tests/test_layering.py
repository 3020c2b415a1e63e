"""Who may import what, and how large things may get: the house rules, as data and as one check."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# What the loop stands on: the modules directly in unified_fm/, and these folders. Nobody imports
# cli, main or train, and only these setup.
ABOVE = ("cli", "main", "train", "setup", "__init__")
CORE = [f.stem for f in (ROOT / "unified_fm").glob("*.py") if f.stem not in ABOVE]
CORE += ["config", "checkpoint", "teachers", "runtime", "report", "demo"]
ARRAYS = ["numpy", "grain", "tensorflow_datasets", "array_record", "tokenizers", "PIL", "cv2"]
ARRAYS += ["simplejpeg", "resvg_py", "pyarrow", "tqdm", "etils", "absl"]

SCORED = ["tasks._scoring", "tasks._metrics", "tasks._baselines", "data", "report", "config"]
SCORED += ["checkpoint.start", "checkpoint.assets", "touched"]
LINES = [f"tasks._scoring.{name}" for name in ("lines", "rankings", "scored")]
INFERENCE = ["evaluators.base", "objectives.base"]
# Of tasks, what evaluators share with them.
SHARED = ["tasks._metrics", "tasks._probes.regression", *LINES]
CONFIG = ["config", "checkpoint.start", "checkpoint.assets", "data", "optim", "plugins", "sharding"]
# Of models, what a task attaches, and what that looks at: never a model.
FOR_TASKS = [f"models.{name}" for name in ("heads", "decoder", "beam", "ranking", "memory")]

# Path under unified_fm/ -> (modules of ours, packages of others) that it may import; the first
# prefix that fits decides. "*" is all that OWNERS and NEVER do not forbid. The standard library is
# always allowed.
LAYERS = [
    ("rules.py", [], ["jax.tree_util"]),
    ("choices.py", [], []),
    ("files.py", [], []),
    ("buckets.py", [], ["fsspec", "etils"]),
    ("hub.py", [], ["huggingface_hub"]),
    ("plugins.py", [], []),
    ("main.py", ["*"], ["*"]),
    # The list of verbs needs no JAX.
    ("cli.py", ["commands", "__version__", "runtime.huge_pages"], []),
    ("__init__.py", ["inference.loading"], []),  # `load`, when it is first asked for
    ("commands/", ["*"], ["*"]),
    ("planning/", ["*"], ["*"]),
    ("bench/", ["*"], ["*"]),
    # It trains as `unified-fm train` does, and reads what that leaves: no model, no device.
    ("scoreboard/", ["scoreboard", *SCORED, "main"], ["numpy", "markupsafe"]),
    # It reads as a run does: what its processes import needs no JAX, and no model is asked.
    ("doctor/", ["doctor", "data", "report"], ["numpy", "cv2", "simplejpeg"]),
    # Facts that others have found, as text: no model, no device.
    (
        "model_card/",
        ["model_card", "scoreboard.page", "scoreboard.row", "data", "demo", "plugins", "touched"],
        ["huggingface_hub"],
    ),
    ("train.py", [*CORE, "setup", "data"], ["jax", "etils"]),
    ("evaluation.py", [*CORE, "setup", "evaluators.base"], ["jax", "numpy", "etils"]),
    # Settings name what there is, and so look at all of it; but they know no run, and make none.
    ("config/records.py", ["config.values"], []),
    ("config/settings.py", ["config.records", "plugins"], ["ml_collections"]),
    ("config/", [*CONFIG, "objectives.base", "evaluators.base"], ["etils"]),
    ("groups.py", [], ["jax"]),
    ("queries.py", [], ["jax"]),  # of a model that is given: no model is imported
    # Models and tasks reach it through plugins only.
    (
        "inference/",
        [*CORE, "__version__", "inference", "setup", "data", "convert", *INFERENCE],
        ["jax", "flax.errors", "numpy", "etils", "PIL"],
    ),
    # Probes ask a model that is given; what they fit is of the tasks.
    (
        "probing/",
        ["probing", "inference", "evaluators.knn", "tasks.probe_sets", "tasks._probes", *SCORED],
        ["numpy"],
    ),
    # The page asks a model that is given; Gradio is given, too, or imported by name.
    ("page/guard.py", [], []),
    (
        "page/",
        ["page", "inference.abilities", "inference.items", "data.images", "data.sources.demo"],
        ["PIL", "numpy"],
    ),
    ("placement.py", [], ["jax"]),
    # They ask models for views, and name the records that say which.
    (
        "joint.py",
        ["models.base", "models.memory", "models.passes", "objectives.base"],
        ["jax", "chex"],
    ),
    ("step.py", [*CORE, "models.base", "objectives.base", "optim"], ["*"]),
    ("objectives/", ["objectives"], ["jax", "optax", "numpy", "chex"]),
    ("models/", ["models"], ["jax", "flax.linen", "flax.struct", "numpy", "chex"]),
    ("optim/", ["optim", "plugins"], ["jax", "optax", "flax.struct", "numpy", "chex"]),
    ("convert/", ["convert"], ["numpy", "scipy", "safetensors", "huggingface_hub"]),
    # A classifier of answers needs their list, which has the official normal form.
    ("demo/composed_vqa.py", ["demo", "data", "tasks._metrics.vqa_answers"], ARRAYS),
    ("demo/easy_vqa.py", ["demo", "data", "tasks._metrics.vqa_answers"], ARRAYS),
    ("demo/", ["demo", "data", "plugins"], ARRAYS),
    ("data/prepare/beam.py", ["data"], ["apache_beam"]),
    ("data/prepare/spark.py", ["data"], ["pyspark"]),
    ("data/", ["data", "demo", "plugins"], ARRAYS),
    (
        "evaluators/",
        ["evaluators", "queries", "data", "plugins", *SHARED],
        ["jax", "numpy", "scipy", "sklearn", "PIL"],
    ),
    # Files in, numbers out: `unified-fm score` runs where no device is.
    ("tasks/_metrics/", ["tasks._metrics", "data.official"], ["numpy"]),
    ("tasks/_baselines/", ["tasks._baselines", "tasks._metrics", "data"], ["numpy", "sklearn"]),
    ("tasks/_probes/regression.py", [], ["numpy", "scipy"]),
    ("tasks/_scoring/", ["tasks._scoring", "tasks._metrics", "data"], ["numpy"]),
    ("tasks/", ["tasks", "objectives", "data", "evaluators", *FOR_TASKS], ["*"]),
    # What is learnt reaches the loop through plugins only: no models, objectives or tasks here.
    ("teachers/", [*CORE, "convert", "objectives.lumps"], ["*"]),  # one arithmetic of the rest
    ("", [*CORE, "optim", "data", "evaluators", "convert", "objectives.base"], ["*"]),
]

# Small parts, which import nothing of ours.
EVERYBODY = ["rules", "choices", "files", "buckets", "groups", "hub", "placement"]

# What only these places may use, by import or by attribute (jax.distributed.initialize).
OWNERS = {
    "flax.linen": ["models/", "step.py"],
    "orbax": ["checkpoint/"],
    "grain": ["data/"],
    "apache_beam": ["data/prepare/beam.py"],  # extras, in a folder of their own
    "pyspark": ["data/prepare/spark.py"],
    "tensorflow_datasets": ["data/"],
    "ml_collections": ["config/"],
    "jax.distributed": ["main.py"],
    "torch": ["commands/verify.py", "bench/published/"],  # where it happens to be installed
    "transformers": ["commands/verify.py"],
}
# How a run is put together, which is the business of one place.
ASSEMBLY = ["step.Program", "step.init_params", "step.init_state", "step.make_step"]
ASSEMBLY += ["step.make_train_step", "optim.build.build", "sharding.make_mesh"]
ASSEMBLY += ["teachers.transform.build", "teachers.transform.load_params"]
ASSEMBLERS = ("unified_fm/setup.py", "unified_fm/step.py")
# What a plugin has is said by the contract of its kind, and what it takes is read in plugins.py:
# nobody looks whether something is there. These look at what is no plugin.
LOOKS = {
    "plugins.py": "modules and signatures, to compare them with the contracts",
    "config/python.py": "a ConfigDict, known by its to_dict",
    "config/values.py": "annotations, of which not all have a name",
    "files.py": "paths of several libraries",
    "rules.py": "key paths of JAX",
    "optim/moments.py": "states of optax",
    "optim/merge/igm.py": "its own options, as its signature",
    "runtime/processes.py": "settings of JAX",
    "runtime/roll_call.py": "errors of the operating system",
    "commands/verify.py": "models of transformers",
}
# The type checker's own names, and what stands under `if TYPE_CHECKING` for it.
TYPES = ["from typing import TYPE_CHECKING"]
TYPES += ["from unified_fm.inference.loading import load as load"]
NEVER = ["pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"]
NAMELESS = {"utils", "common", "misc", "helpers"}
# Calls that start a backend or allocate: none at import.
AT_IMPORT = ["jax.devices", "jax.local_devices", "jax.device_count", "jax.local_device_count"]
AT_IMPORT += ["jax.process_index", "jax.process_count", "jax.default_backend", "jax.device_put"]
AT_IMPORT += ["jax.numpy", "jax.random", "jax.config.update"]
MAX_FILE, MAX_FUNCTION = 400, 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def within(name: str, prefixes: list[str]) -> bool:
    return any(p == "*" or name == p or name.startswith(p + ".") for p in prefixes)


def dotted(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """The full name that an attribute chain stands for: nn.Dense -> flax.linen.Dense."""
    if isinstance(node, ast.Attribute):
        head = dotted(node.value, aliases)
        return head and f"{head}.{node.attr}"
    return aliases.get(node.id) if isinstance(node, ast.Name) else None


def imports(tree: ast.AST) -> tuple[list[tuple[int, str]], dict[str, str]]:
    """Every imported name with its line, and what each local name stands for."""
    found, aliases = [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                found.append((node.lineno, a.name))
                top = a.name.split(".")[0]
                aliases[a.asname or top] = a.name if a.asname else top
        elif isinstance(node, ast.ImportFrom):
            for a in node.names:
                found.append((node.lineno, f"{'.' * node.level}{node.module or ''}.{a.name}"))
                aliases[a.asname or a.name] = f"{node.module}.{a.name}"
    return found, aliases


def run_at_import(node: ast.AST):
    """The nodes below, without the bodies of functions and what the interpreter skips."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.Lambda)):
            continue
        yield child
        yield from run_at_import(child)


def layer_faults(path: str, found: list[tuple[int, str]]) -> list[str]:
    """Imports of the file (path under unified_fm/) that its layer does not allow."""
    ours, others = next((o, t) for prefix, o, t in LAYERS if path.startswith(prefix))
    faults = []
    for line, name in found:
        inner = name.removeprefix("unified_fm.")
        if inner != name:
            if not within(inner, [*ours, *EVERYBODY]):
                faults.append(f"{path}:{line} may not import {name}")
        elif name.split(".")[0] not in sys.stdlib_module_names and not within(name, others):
            faults.append(f"{path}:{line} may not import {name}")
    return faults


def faults_of(path: str, text: str) -> list[str]:
    """All violations in one file of the package; path is relative to unified_fm/."""
    tree = ast.parse(text)
    found, aliases = imports(tree)
    faults = layer_faults(path, found)
    chains = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    uses = found + [(node.lineno, dotted(node, aliases) or "") for node in chains]
    for line, name in uses:
        for owned, owners in OWNERS.items():
            if within(name, [owned]) and not path.startswith(tuple(owners)):
                faults.append(f"{path}:{line} uses {owned}, which belongs to {', '.join(owners)}")
    for node in run_at_import(tree):
        name = dotted(node.func, aliases) if isinstance(node, ast.Call) else None
        if name and within(name, AT_IMPORT):
            faults.append(f"{path}:{node.lineno} calls {name} at import")
    if path not in LOOKS:
        faults += [f"{path}:{line} {looks}" for line, looks in looks_of(tree, aliases)]
    if path.endswith("__init__.py") and text.strip() and (path != "__init__.py" or eager(tree)):
        faults.append(f"{path} is not empty")  # unified_fm/__init__.py: nothing of weight at once
    return list(dict.fromkeys(faults)) + general_faults(path, text)


def eager(tree: ast.AST) -> bool:
    """Whether importing the file imports more than names for the type checker."""
    return any(
        isinstance(node, ast.Import | ast.ImportFrom) and ast.unparse(node) not in TYPES
        for node in run_at_import(tree)
    )


def looks_of(tree: ast.AST, aliases: dict[str, str]):
    """Where code asks whether something has an attribute, or what it takes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == "hasattr" or (name == "getattr" and len(node.args) == 3):
            yield node.lineno, f"looks by {name}: name it in the contract of its kind"
        if dotted(node.func, aliases) == "inspect.signature":
            yield node.lineno, "reads a signature, which is what plugins.parameters is for"


def assembly_faults(path: str, text: str) -> list[str]:
    """Where a file puts a run together by hand; path is relative to the repository."""
    if path in ASSEMBLERS:
        return []
    tree = ast.parse(text)
    _, aliases = imports(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = [(node.lineno, dotted(node.func, aliases) or "") for node in calls]
    return [
        f"{path}:{line} calls {name}: a run is put together by unified_fm.setup.prepare"
        for line, name in made
        if name.removeprefix("unified_fm.") in ASSEMBLY
    ]


def general_faults(path: str, text: str) -> list[str]:
    """What holds for every Python file that we ship: names, sizes, nothing executable in files."""
    tree = ast.parse(text)
    faults = [
        f"{path}:{line} imports {name}: nothing from a file may be executed"
        for line, name in imports(tree)[0]
        if within(name, NEVER)
    ]
    if pathlib.PurePath(path).stem in NAMELESS:
        faults.append(f"{path} has no name of its own: put each function with the noun it serves")
    if (lines := len(text.splitlines())) > MAX_FILE:
        faults.append(f"{path} has {lines} lines (at most {MAX_FILE})")
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and (n := node.end_lineno - node.lineno + 1) > MAX_FUNCTION:
            where = f"{path}:{node.lineno} {node.name}"
            faults.append(f"{where} has {n} lines (at most {MAX_FUNCTION})")
        if isinstance(node, ast.keyword) and ast.unparse(node) == "allow_pickle=True":
            faults.append(f"{path}:{node.value.lineno} allows pickle")
    return faults


def test_every_file_keeps_the_house_rules():
    faults = []
    for file in sorted((ROOT / "unified_fm").rglob("*.py")):
        path = file.relative_to(ROOT / "unified_fm").as_posix()
        faults += [f"unified_fm/{fault}" for fault in faults_of(path, file.read_text())]
        faults += assembly_faults(f"unified_fm/{path}", file.read_text())
    for folder in ("configs", "tools", "experiments"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            faults += general_faults(path, file.read_text())
            faults += assembly_faults(path, file.read_text())
    assert not faults, f"{len(faults)} violations:\n" + "\n".join(faults)


LONG = "def f():\n" + "    x = 1\n" * 60
STARTS = "import jax\ndef f():\n    jax.distributed.initialize()"


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("models/a.py", "import optax", "models/a.py:1 may not import optax"),
        ("models/a.py", "def f():\n    from unified_fm.objectives import itm", "a.py:2 may not"),
        ("models/a.py", "from .layers import Block", "may not import .layers.Block"),
        ("data/a.py", "import jax.numpy as jnp", "may not import jax.numpy"),
        ("rules.py", "import jax", "may not import jax"),
        ("train.py", "from unified_fm.models import xfm", "import unified_fm.models.xfm"),
        ("step.py", "import unified_fm.train", "may not import unified_fm.train"),
        ("evaluators/a.py", "from unified_fm.tasks import vqa", "import unified_fm.tasks.vqa"),
        ("tasks/_metrics/a.py", "import jax", "may not import jax"),
        ("metrics.py", "import flax\nflax.linen.Dense(3)", "metrics.py:2 uses flax.linen"),
        ("metrics.py", "from orbax import checkpoint", "orbax, which belongs to checkpoint/"),
        ("train.py", STARTS, "train.py:3 uses jax.distributed, which belongs to main.py"),
        ("metrics.py", "import jax\nN = len(jax.devices())", "calls jax.devices at import"),
        ("step.py", "import jax.numpy as jnp\nclass A:\n    x = jnp.ones(3)", "jax.numpy.ones at"),
        ("models/__init__.py", "import jax", "is not empty"),
        ("__init__.py", "import jax", "is not empty"),
        ("__init__.py", "def f():\n    import jax", "may not import jax"),
        ("step.py", "from unified_fm import setup", "may not import unified_fm.setup"),
        ("config/a.py", "from unified_fm import step", "may not import unified_fm.step"),
        ("config/settings.py", "from unified_fm.optim import build", "may not import"),
        ("step.py", "hasattr(objective, 'target')", "step.py:1 looks by hasattr"),
        ("data/a.py", "getattr(source, 'lost', 0)", "a.py:1 looks by getattr"),
        ("config/a.py", "import inspect\ninspect.signature(f)", "a.py:2 reads a signature"),
        ("cli.py", "from unified_fm import main", "may not import unified_fm.main"),
        ("train.py", "from unified_fm.commands import show", "import unified_fm.commands.show"),
        ("data/utils.py", "", "has no name of its own"),
        ("data/a.py", "x = 1\n" * 401, "has 401 lines"),
        ("data/a.py", LONG, "f has 61 lines"),
        ("data/a.py", "import pickle", "imports pickle"),
        ("data/a.py", "import numpy as np\nnp.load('x', allow_pickle=True)", "a.py:2 allows"),
    ],
)
def test_a_violation_is_seen(path, text, fault):
    assert fault in "\n".join(faults_of(path, text))


def test_a_run_that_is_put_together_by_hand_is_seen():
    text = "from unified_fm.optim import build\nfrom unified_fm import step\nbuild.build(params)\n"
    faults = assembly_faults("tools/a.py", text + "step.make_apply(model)\nstep.Program()")
    assert [fault.split(":")[1] for fault in faults] == [
        "3 calls unified_fm.optim.build.build",
        "5 calls unified_fm.step.Program",
    ]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("models/a.py", "import flax.linen as nn\nfrom unified_fm.models.layers import Block"),
        ("step.py", "from flax import linen as nn"),
        ("main.py", STARTS + "\n    return jax.devices()"),
        ("rules.py", "import difflib\nfrom jax import tree_util"),
        ("__init__.py", '__version__ = "1"'),
        ("__init__.py", "def f():\n    from unified_fm.inference.loading import load"),
        ("models/a.py", "from unified_fm import choices, files, rules"),
        ("data/a.py", "import numpy as np\nnp.load('x', allow_pickle=False)"),
    ],
)
def test_what_is_allowed_passes(path, text):
    assert faults_of(path, text) == []
