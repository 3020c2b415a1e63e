"""`model=dict(of=RUN)`: a tiny model, then a config that differs from it by a few keys."""

import json
import logging
import pathlib

import chex
import pytest

from unified_fm import main, plugins, rules, setup, train
from unified_fm.checkpoint import store
from unified_fm.config import file
from unified_fm.runtime.interruption import Interruption

ROOT = pathlib.Path(__file__).parents[1]
FINE_TUNING = """
from unified_fm.config import settings
from unified_fm.data.streams import stream

def get_config(argument=""):
    c = settings.start(argument, known=("smoke",))
    c.init = {run!r}
    c.model = dict(of=c.init, image_size=32, vision=dict(dropout=0.1))
    pixels = dict(size=32, patch_size=8)
    c.streams = dict(task=stream("classify", "synthetic:image:12", 8, dict(classify=1.0), **pixels))
    c.total_steps = "2 epochs"
    c.optimizer.schedule.warmup = "10%"
    dev = dict(name="held_out", like="task", source="synthetic:image:8")
    c.evaluate = dict(every="1 epoch", evaluators=dict(dev=dev))
    c.checkpoint = dict(every="1 epoch", best="dev/task/classify", best_mode="min")
    return c
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The workdir of a small ViT that has learnt pictures of 16 pixels for two steps."""
    return trained(tmp_path_factory.mktemp("base"), f"{ROOT}/configs/teacher_vit.py:smoke")


def trained(workdir, spec, *changes):
    changes = [*changes, "report=False", "log.tensorboard=False"]
    with Interruption() as stop:
        train.train(file.load(spec, changes), workdir, stop)
    return workdir


@pytest.mark.slow
@pytest.mark.nightly
def test_fine_tuning_at_a_larger_size(base, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="unified_fm")
    logging.getLogger("unified_fm").propagate = True
    config = tmp_path / "fine.py"
    config.write_text(FINE_TUNING.format(run=str(base)))
    workdir = trained(tmp_path, str(config))
    assert "1 resized:\n  vision/position (1, 5, 16) -> (1, 17, 16)" in caplog.text
    assert store.load_params(workdir)["vision"]["position"].shape == (1, 17, 16)
    assert store.Checkpoints(workdir / "checkpoints", read_only=True).steps() == [2, 4]
    ours, theirs = (json.loads((f / "config.json").read_text())["model"] for f in (workdir, base))
    theirs["vision"]["dropout"] = 0.1  # the run's other options of the stack stay
    assert ours == theirs | {"image_size": 32}


@pytest.mark.slow
def test_it_starts_from_the_parameters_there(base):
    changes = ["streams.image.size=32", "model.image_size=32"]
    changes += [f"model.of={base}/checkpoints/2", f"init={base}"]
    ready = setup.prepare(file.load(f"{ROOT}/configs/teacher_vit.py:smoke", changes))
    found = dict(rules.named_leaves(ready.fresh_state().params))
    saved = dict(rules.named_leaves(store.load_params(base)))
    assert found.pop("vision/position").shape != saved.pop("vision/position").shape
    chex.assert_trees_all_equal(found, saved)


def test_the_tokenizer_is_the_one_that_the_run_has_kept(tmp_path):
    kept = tmp_path / "assets" / "tokenizer-1.json"
    kept.parent.mkdir()
    (kept.parent / "assets.json").write_text('{"tokenizer": "tokenizer-1.json"}')
    there = {"model": {"name": "bert", "vocab_size": 300}, "tokenizer": "data/gone"}
    (tmp_path / "config.json").write_text(json.dumps(there))
    spec = f"{ROOT}/configs/teacher_bert.py:smoke"
    found = file.load(spec, [f"model.of={tmp_path}", "model.max_positions=40"])
    assert found.tokenizer == str(kept)
    assert (found.model["vocab_size"], found.model["max_positions"]) == (261, 40)  # as given
    assert file.load(spec, [f"model.of={tmp_path}", "tokenizer=mine"]).tokenizer == "mine"
    kept.parent.joinpath("assets.json").unlink()
    assert file.load(spec, [f"model.of={tmp_path}"]).tokenizer == "data/gone"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "config.model.of is the workdir of a run, but {run} has no config.json"),
        ("[]", "must hold an object, found list"),
        ('{"model": 3}', "config.model.of: config.json in {run} names no model: 3"),
        ('{"model": {"name": "bert"}}', "is 'bert', and model.name is 'vit': leave the name out"),
    ],
)
def test_what_is_no_run_or_has_another_model_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    argv = ["main", f"--config={ROOT}/configs/teacher_vit.py:smoke", "--workdir=w"]
    with pytest.raises(main.Refused) as refusal:
        main.parse([*argv, f"--config.model.of={tmp_path}"])
    assert message.format(run=tmp_path) in str(refusal.value)


def test_D1_a_module_that_a_run_names_is_not_imported_unless_the_user_names_it(
    tmp_path, monkeypatch
):
    marker, package = tmp_path / "marker", tmp_path / "stranger_for_of"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).write_text('it ran')\n"
        "from unified_fm.models.vit import Model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = {"name": "stranger_for_of.model", "image_size": 16, "patch_size": 8, "classes": 3}
    text = json.dumps({"model": model, "plugins": ["stranger_for_of"]})
    (tmp_path / "config.json").write_text(text)
    config = tmp_path / "fine.py"
    config.write_text(FINE_TUNING.format(run=str(tmp_path)))
    with pytest.raises(plugins.Unnamed, match="--plugins=stranger_for_of"):
        file.load(str(config))
    assert not marker.exists()
    assert file.load(str(config), plugins=["stranger_for_of"]).model["name"] == model["name"]


OF_INIT = """
from unified_fm.config import settings
from unified_fm.data.streams import stream

def get_config():
    c = settings.start()
    c.init = dict(path=None, fresh=["glue_head/.*"], leave=[".*"])
    small = dict(layers=1, width=8, heads=1, mlp_width=8)
    c.model = dict(of="init", otherwise=dict(name="bert", text=small), max_positions=40)
    c.tokenizer = "data/other"
    c.streams = dict(task=stream("glue", "glue:CoLA:train", 2, dict(glue=dict(task="cola")),
                                 task="cola", max_len=8))
    return c
"""


def test_init_is_all_that_a_fine_tuning_is_told(tmp_path):
    config = tmp_path / "fine.py"
    config.write_text(OF_INIT)
    for nothing in ([], ["init=None"]):  # new parameters are never an oversight
        with pytest.raises(ValueError, match=r"config\.init says not what to start from.*=scratch"):
            file.load(str(config), nothing)
    alone = file.load(str(config), ["init=scratch"])
    assert alone.init is None and alone.tokenizer == "data/other"
    assert alone.model["text"]["width"] == 8 and alone.model["max_positions"] == 40

    there = {"model": {"name": "ufm", "vocab_size": 300}, "tokenizer": "data/theirs"}
    (tmp_path / "config.json").write_text(json.dumps(there))
    for change in (f"init={tmp_path}", f"init.path={tmp_path}"):
        found = file.load(str(config), [change, "model.modality_embedding=True"])
        assert found.model == {
            "name": "ufm",
            "vocab_size": 300,
            "max_positions": 40,
            "modality_embedding": True,  # an option of the model there
        }
        assert found.tokenizer == "data/theirs"
        assert found.init.path == str(tmp_path) and found.init.leave == [".*"]


def test_init_may_be_weights_of_another_library(tmp_path):
    config, weights = tmp_path / "fine.py", tmp_path / "roberta"
    config.write_text(OF_INIT)
    weights.mkdir()
    numbers = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    numbers |= dict(intermediate_size=32, vocab_size=50, max_position_embeddings=64)
    numbers |= dict(type_vocab_size=1, pad_token_id=1, hidden_act="gelu", layer_norm_eps=1e-5)
    (weights / "config.json").write_text(json.dumps({"model_type": "roberta", **numbers}))
    found = file.load(str(config), [f"init=roberta:{weights}"])
    assert (found.model["name"], found.model["text"]["layers"]) == ("bert", 2)
    assert found.model["max_positions"] == 40  # as given
    assert found.tokenizer == "data/other"  # no files of one lie there
    (weights / "vocab.json").write_text("{}")
    assert file.load(str(config), [f"init=roberta:{weights}"]).tokenizer == str(weights)
    (weights / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json, which would tell its model"):
        file.load(str(config), [f"init=roberta:{weights}"])


def test_a_config_without_an_init_may_be_told_so(tmp_path):
    config = f"{ROOT}/tests/tiny_config.py"
    assert file.load(config, ["init=scratch"]).init is None
