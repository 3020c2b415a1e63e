"""Every config in configs/finetune: two steps, evaluated, on files in the official layouts."""

import itertools
import json
import re

import pytest

from tests.convert.test_convert_checkpoint import folder
from tests.tasks import finetuning
from unified_fm import touched
from unified_fm.config import chosen, python
from unified_fm.config import file as config_file
from unified_fm.evaluators.predicted import CHOSEN

# Config -> a metric that is measured, and how many predictions are written at step 2.
CONFIGS = {
    "glue:cola": ("dev/matthews", {"dev": 3}),
    "glue:sst2": ("dev/accuracy", {"dev": 2}),
    "glue:mrpc": ("dev/mean", {"dev": 3}),
    "glue:qqp": ("dev/mean", {"dev": 2}),
    "glue:stsb": ("dev/pearson", {"dev": 2}),
    "glue:mnli": ("mismatched/accuracy", {"dev": 2, "mismatched": 2}),
    "glue:qnli": ("dev/accuracy", {"dev": 2}),
    "glue:rte": ("dev/accuracy", {"dev": 2}),
    "glue:wnli": ("dev/accuracy", {"dev": 2}),
    "image_classification": ("dev/mean_per_class", {"dev": 6}),
    "image_classification:layerwise": ("dev/accuracy", {"dev": 6}),
    "nlvr2": ("dev/consistency", {"dev": 4}),
    "vqa": ("dev/accuracy/yes/no", {"dev": 3}),
    "vqa_generation": ("written/accuracy/yes/no", {"dev": 3, "written": 3}),
    "captioning": ("dev/bleu4", {"dev": 1}),
    "captioning:scst": ("dev/cider", {"dev": 1}),
    "refcoco": ("val/val/accuracy", {"val": 2}),
    "retrieval": ("val/mean_recall", {"val": 6}),
    "retrieval:flickr": ("val/mean_recall", {"val": 6}),
}
QUICK = ("glue:stsb",)  # one of them is in the plain suite
# Tables of other columns and labels, which the tests of the source read one by one.
ALIKE = tuple(f"glue:{task}" for task in ("cola", "sst2", "mrpc", "qqp", "qnli", "rte", "wnli"))
VARIANTS = ("image_classification:layerwise", "captioning:scst", "retrieval:flickr")


def _marks(name):
    if name in QUICK:
        return ()
    return pytest.mark.nightly if name in ALIKE + VARIANTS else pytest.mark.slow


PATHS = sorted((finetuning.ROOT / "configs/finetune").glob("*.py"))


def _read(path, *words):
    """The config, or None where the words are refused because they exclude each other."""
    try:
        return python.read(":".join([f"{path}", *([",".join(words)] if words else [])]))
    except ValueError as error:
        assert "after ':' exclude each other; one of " in str(error), error
        return None


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_two_arguments_both_count_or_are_refused(path):
    with pytest.raises(ValueError, match=r"unknown argument 'x' after ':'; ") as caught:
        python.read(f"{path}:x")
    words = re.search(r"Possible: (.*)\.", str(caught.value))[1].split(", ")
    assert {"demo", "smoke"} <= {*words}
    plain = _read(path)
    alone = {word: _read(path, word) for word in words}
    assert None not in alone.values()
    for pair in itertools.combinations(words, 2):
        both = _read(path, *pair)
        assert both == _read(path, *reversed(pair)), pair
        for word, other in (pair, pair[::-1]):
            if both is not None and alone[other] != plain:  # the other is no mere default
                assert both != alone[word], f"{other} is dropped of {pair}"


@pytest.mark.parametrize("path", PATHS)
def test_every_task_has_a_demo_that_fits_the_quick_starts_model(path):
    name = "glue:sst2,demo" if path.stem == "glue" else f"{path.stem}:demo"
    settings = config_file.load(f"finetune/{name}", ["init.path=scratch"])
    entry = settings.streams["task"].plain()
    assert entry["source"].startswith("demo:") and settings.model["text"]["width"] == 64
    assert entry.get("size", 48) == 48 and entry.get("max_len", 0) <= 32
    assert "test" in settings.evaluate.evaluators or path.stem in ("glue", "refcoco")


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ALIKE])
def test_no_test_data_are_looked_at_while_training(name):
    """Once for each epoch would be 15 times; they are for `unified-fm evaluate --as=test`."""
    found = config_file.load(f"finetune/{name}", ["init.path=scratch"]).evaluate.evaluators
    looked = [n for n, each in found.items() if touched.is_test(n, each["source"])]
    assert found and not looked


IMAGENET = (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("words", "file", "mean"),
    [
        ("", {"image_mean": [0.5, 0.4, 0.3]}, (0.5, 0.4, 0.3)),
        ("", {}, (0.5, 0.5, 0.5)),
        (":official", {"image_mean": [0.5, 0.4, 0.3]}, IMAGENET),
    ],
)
def test_images_are_normalised_as_by_the_start(words, file, mean, tmp_path):
    there = folder("vit_small", tmp_path / "vit")[0]
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(file))
    spec, size = f"finetune/image_classification{words}", there["image_size"]
    changes = [f"init=vit:{tmp_path / 'vit'}", f"streams.task.size={size}"]
    changes.append(f"streams.task.patch_size={there['patch_size']}")
    settings = config_file.load(spec, changes)
    assert chosen.model(settings.model).mean == mean


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("official")
    finetuning.write_data(root)
    return root


@pytest.mark.parametrize("name", [pytest.param(n, marks=_marks(n)) for n in CONFIGS])
def test_a_config_trains_evaluates_and_keeps_the_best(name, data, tmp_path, monkeypatch):
    metric, predicted = CONFIGS[name]
    monkeypatch.chdir(data)
    with finetuning.quick(monkeypatch):
        spec = f"{name},smoke" if ":" in name else f"{name}:smoke"
        assert finetuning.train(spec, tmp_path, "report=False") == 0
    found = finetuning.metrics(tmp_path)
    assert metric in found[1] and metric in found[2]
    best = json.loads((tmp_path / "config.json").read_text())["checkpoint"]["best"]
    assert best in found[2]
    for evaluator, rows in predicted.items():
        lines = (tmp_path / "predictions" / f"{evaluator}-2.jsonl").read_text().splitlines()
        assert len(lines) == rows
        assert all({"id", "prediction", "truth"} <= json.loads(line).keys() for line in lines)
        report = json.loads((tmp_path / "predictions" / f"{evaluator}-2.json").read_text())
        assert {"ci95", "value"} <= report["metrics"][report["headline"]].keys()
        assert (CHOSEN in report["notes"]) == (evaluator == best.partition("/")[0])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder for the demo corpus, of which each config makes the parts that it reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_FM_DATA", str(tmp_path_factory.mktemp("demo")))
        yield


DEMOS = [f"{path.stem}:demo" for path in PATHS if path.stem != "glue"]
DEMOS += ["glue:sst2,demo", "vqa:easy"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_trains_on_its_own_corpus(name, corpus, tmp_path, monkeypatch):
    two = ("init=scratch", "total_steps=2", "checkpoint.every=2")
    with finetuning.quick(monkeypatch):
        assert finetuning.train(name, tmp_path, *two) == 0
    assert any(metric.startswith("test/") for metric in finetuning.metrics(tmp_path)[2])
