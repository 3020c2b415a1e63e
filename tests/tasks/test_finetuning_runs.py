"""Fine-tuning as a user does it: from a run, with the best step kept, resumed, moved, evaluated."""

import json
import logging
import re
import shutil

import numpy as np
import pytest

import unified_fm
from tests.checkpoint import test_foreign
from tests.inference import runs
from tests.loop_runs import same_params
from tests.tasks import finetuning
from unified_fm import cli, main, setup, step, touched
from unified_fm.checkpoint import store
from unified_fm.commands import evaluate
from unified_fm.config import file as config_file
from unified_fm.convert import families
from unified_fm.convert.table import flatten
from unified_fm.models import bert, vit

QUIET = ("report=False",)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("official")
    finetuning.write_data(root)
    return root


@pytest.fixture
def here(data, monkeypatch):
    monkeypatch.chdir(data)
    with finetuning.quick(monkeypatch):
        yield data


@pytest.fixture
def said(caplog):
    """What the library logs; its lines stay with itself, so the handler must come to it."""
    log = logging.getLogger("unified_fm")
    caplog.set_level(logging.INFO, logger="unified_fm")
    log.addHandler(caplog.handler)
    yield caplog
    log.removeHandler(caplog.handler)


@pytest.mark.slow
def test_a_run_starts_from_another_one_and_moves_only_what_is_not_frozen(here, tmp_path, said):
    base, rte = tmp_path / "base", tmp_path / "rte"
    assert finetuning.train("nlvr2:smoke", base, *QUIET, "seed=3") == 0
    said.clear()
    # A sentence alone needs no images: all of that is left over, and the head is new.
    frozen = "rules.frozen=[('glue_head/.*', False), ('.*', True)]"
    more = (f"init={base}", frozen, "optimizer.lr=0.1", "checkpoint.keep=2")
    assert finetuning.train("glue:rte,smoke", rte, *QUIET, *more) == 0
    assert "6 new, initialised here" in said.text and "glue_head/out/kernel" in said.text
    assert re.search(r"^\d+ left over:\n  fusion/", said.text, re.MULTILINE)
    theirs = flatten(store.load_params(base))
    first, last = (flatten(store.load_params(rte, step)) for step in (1, 2))
    assert "text/layer_00/self_attn/query/kernel" in theirs.keys() & last.keys()
    for name in first:
        if name.startswith("glue_head/"):
            assert name not in theirs and (first[name] != last[name]).any()
        else:
            np.testing.assert_array_equal(theirs[name], last[name], err_msg=name)
    model = json.loads((rte / "config.json").read_text())["model"]
    assert model["image_size"] == 16  # the model is that of the run


@pytest.mark.slow
def test_a_run_goes_on_exactly_where_it_stopped(here, tmp_path):
    spec, keep = "vqa:smoke", "checkpoint.keep=3"
    steps = ("total_steps=4", "evaluate.every=2", "checkpoint.every=2", keep)
    assert finetuning.train(spec, tmp_path / "whole", *QUIET, *steps) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "4")
    # The answer list lies elsewhere meanwhile; its content is what counts.
    moved = here / "data" / "vqa" / "moved.json"
    moved.write_bytes((here / "data" / "vqa" / "answers.json").read_bytes())
    assert (
        finetuning.train(spec, tmp_path / "parts", *QUIET, *steps, f"streams.task.answers={moved}")
        == 0
    )
    same_params(tmp_path / "whole", tmp_path / "parts")
    last = [finetuning.metrics(tmp_path / name)[4]["dev/accuracy"] for name in ("whole", "parts")]
    assert last[0] == last[1]


@pytest.mark.slow
def test_a_moved_run_is_evaluated_without_its_training_data_or_a_step(here, tmp_path, monkeypatch):
    assert finetuning.train("vqa:smoke", tmp_path / "run", *QUIET) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(tmp_path / "run", elsewhere / "run")
    shutil.copytree(here / "data" / "coco", elsewhere / "coco")
    for name in ("questions", "annotations"):
        stem = "v2_OpenEnded_mscoco" if name == "questions" else "v2_mscoco"
        shutil.copy(here / "data" / "vqa" / f"{stem}_val2014_{name}.json", elsewhere)
    monkeypatch.chdir(elsewhere)  # no data/ here, and no answer list

    def refused(*args, **kwargs):
        raise AssertionError("nothing here is trained")

    monkeypatch.setattr(step, "make_train_step", refused)
    monkeypatch.setattr(setup.Prepared, "open_streams", refused)
    source = "v2_OpenEnded_mscoco_val2014_questions.json:v2_mscoco_val2014_annotations.json@coco"
    given = ["--run=run", "--step=best", f"--source=vqa:{source}", "--as=test"]
    assert main.main(["unified-fm evaluate", *evaluate.given(given)]) == 0
    [written] = (elsewhere / "run" / "predictions").glob("test-*.jsonl")
    best = int(written.stem.split("-")[1])
    before = finetuning.metrics(elsewhere / "run")[best]
    assert before["test/accuracy"] == before["dev/accuracy"]
    # The test data were looked at, and that is noted; dev, by which the step was chosen, is not.
    [(of, [noted])] = touched.read(elsewhere / "run").items()
    assert (of, noted["name"], noted["step"]) == (f"vqa:{source}", "test", best)
    known = unified_fm.load("run").info["sha256"]["parameters"]
    assert noted["checkpoint"] == known[:12]


@pytest.mark.slow
def test_retrieval_is_evaluated_from_the_shell_and_scored_again_without_a_model(
    here, tmp_path, capsys, said
):
    workdir, source = tmp_path / "run", "karpathy:data/coco/dataset_coco.json:test@data/coco"
    changes = ("evaluate.evaluators.val=None", "checkpoint.best=None", "total_steps=1")
    assert finetuning.train("retrieval:smoke", workdir, *QUIET, *changes) == 0
    ranked = "--config.evaluate.evaluators.retrieval.rerank=3"
    given = [f"--run={workdir}", f"--source={source}", "--as=retrieval", ranked]
    assert main.main(["unified-fm evaluate", *evaluate.given(given)]) == 0
    assert "fine-tuned, 3 by itm" in said.text
    capsys.readouterr()
    found = finetuning.metrics(workdir)[1]
    for stem, prefix in (("retrieval-1", "reranked/"), ("retrieval-1-itc", "")):
        lines = workdir / "predictions" / f"{stem}.jsonl"
        files = [f"--predictions={lines}", "--truth=data/coco/dataset_coco.json", "--split=test"]
        assert cli.main(["score", "--task=retrieval", *files]) == 0
        again = json.loads(capsys.readouterr().out)
        assert again["counts"] == {"images": 2, "captions": 11}  # one of them has six
        assert len(again["metrics"]) == 7
        for name, metric in again["metrics"].items():
            assert found[f"retrieval/{prefix}{name}"] == metric["value"]
    [chunks] = (workdir / "predictions" / "rerank" / "retrieval").iterdir()
    assert {path.name for path in chunks.iterdir()} == {"features.npz", "chunk_00000.npz"}


def test_an_evaluator_of_the_library_reads_another_source_with_the_sizes_of_the_run(tmp_path):
    given = {"model": runs.XFM, **runs.pretraining(tmp_path)}
    (tmp_path / "config.json").write_text(json.dumps(given))
    coco = "karpathy:dataset_coco.json:test@coco"

    def chosen(name):
        settings = config_file.of_run(str(tmp_path), ["mode=evaluate"], other=(name, coco))
        return settings.plain()["evaluate"]["evaluators"][name]

    assert chosen("retrieval") == {
        **{"name": "retrieval", "source": coco},
        **{"num_examples": None, "candidates": 0, "mean": True},
        "options": {"size": 16, "patch_size": 8, "max_len": 12, "max_masked": 3},
    }
    with pytest.raises(ValueError, match="has no evaluator that could read another source"):
        chosen("test")
    given["evaluate"] = {"evaluators": {"val": {"name": "retrieval", "source": "a:b", "rerank": 9}}}
    (tmp_path / "config.json").write_text(json.dumps(given))
    own = {"name": "retrieval", "source": coco, "rerank": 9}
    assert chosen("retrieval") == chosen("test") == chosen("val") == own
    with pytest.raises(ValueError, match=r"no stream of the pipeline 'classify', .* pairs: image_"):
        chosen("classify")


def test_evaluate_says_what_it_wants():
    assert evaluate.given(["--run=a", "--step=best"]) == [
        "--run=a",
        "--config.evaluate.step=best",
        "--config.mode=evaluate",
    ]
    with pytest.raises(main.Refused, match=r"no workdir of a run: it has no config\.json"):
        main.parse(["main", "--run=not/there", "--config.mode=evaluate"])
    with pytest.raises(main.Refused, match="--run=RUN is the workdir"):
        main.parse(["main", "--run=a", "--workdir=b"])


@pytest.mark.slow
def test_glue_from_weights_of_another_library(here, tmp_path):
    options = {"vocab_size": 300, "max_positions": 40, "token_types": 1}
    roberta = bert.Model(text=test_foreign.STACK, position_offset="roberta", **options)
    weights = test_foreign.folder(
        tmp_path / "roberta", "hf-roberta", roberta, test_foreign.logits, test_foreign.TEXTS, 1
    )
    start = (f"init=roberta:{weights}", "optimizer.lr=0")
    assert finetuning.train("glue:mrpc,smoke", tmp_path / "run", *QUIET, *start) == 0
    ours = flatten(store.load_params(tmp_path / "run"))
    theirs = flatten(families.load("roberta", weights))
    assert {name for name in ours if name not in theirs} == {
        f"glue_head/{layer}/{leaf}" for layer in ("pooler", "out") for leaf in ("kernel", "bias")
    }
    for name in ours.keys() & theirs.keys():
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert "dev/mean" in finetuning.metrics(tmp_path / "run")[2]


@pytest.mark.slow
@pytest.mark.parametrize("family", [pytest.param("vit", marks=pytest.mark.nightly), "beit"])
def test_images_from_weights_of_another_library(here, tmp_path, family):
    """The folder's model, with a new head; of BEiT-2 relative positions and the mean of patches."""
    options = {"image_size": 16, "patch_size": 8}
    models = {
        "vit": vit.Model(**options, vision=test_foreign.STACK),
        "beit": vit.Model(
            **options,
            vision=test_foreign.BEIT,
            mask_token=True,
            pool="mean",
            absolute_positions=False,
        ),
    }
    image = {"image": np.zeros((1, 16, 16, 3), np.uint8)}
    weights = test_foreign.folder(tmp_path / family, f"hf-{family}", models[family], None, image, 1)
    start = (f"init={family}:{weights}", "optimizer.lr=0")
    assert finetuning.train("image_classification:smoke", tmp_path / "run", *QUIET, *start) == 0
    ours = flatten(store.load_params(tmp_path / "run"))
    theirs = flatten(families.load(family, weights))
    assert {name for name in ours if name not in theirs} == {
        name for name in ours if name.startswith("class_head/")
    }
    for name in ours.keys() & theirs.keys():
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert "dev/accuracy" in finetuning.metrics(tmp_path / "run")[2]
