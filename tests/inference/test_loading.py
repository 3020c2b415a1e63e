"""Loading: a run that was moved, its checkpoints, weights of others, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

import unified_fm
from tests.convert import numpy_models
from tests.convert.test_convert_checkpoint import folder
from tests.inference import runs
from unified_fm.commands import convert
from unified_fm.data import tokenizer_training
from unified_fm.inference.abilities import NotTrained
from unified_fm.runtime import revision

ONE = {"devices": jax.devices()[:1], "batch_size": 4}


def test_a_run_that_was_moved_loads_without_its_data(workdir, model, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(workdir, moved)
    config = json.loads((moved / "config.json").read_text())
    config["tokenizer"] = str(tmp_path / "gone")
    config["init"] = str(tmp_path / "gone, too")
    (moved / "config.json").write_text(json.dumps(config))
    again = unified_fm.load(moved, **ONE)
    texts = ["a red square", "it is blue"]
    np.testing.assert_array_equal(again.encode_text(texts), model.encode_text(texts))


def test_a_checkpoint_of_a_run_is_a_path_too(workdir, model):
    one = unified_fm.load(workdir / "checkpoints" / "0", **ONE)
    assert one.info["step"] == 0
    assert one.info["sha256"] == model.info["sha256"]


def test_info_says_what_it_is_and_json_keeps_it(model, workdir):
    info = json.loads(json.dumps(model.info))
    assert (info["path"], info["kind"], info["model"]) == (str(workdir), "run", "xfm")
    assert info["images"]["size"] == runs.SIZE
    assert info["texts"]["about images"] == {"clean": "caption", "max_len": 12, "max_words": 30}
    assert info["texts"]["alone"]["clean"] == "none"
    assert {*info["sha256"]} == {"parameters", "config", "tokenizer"}
    assert tuple(info["tasks"]) == model.tasks
    assert info["dtype"] == "float32"
    assert info["commit"] == revision.commit()
    assert info["parameters"] == sum(info["parts"].values()) > 10_000
    assert {*info["lacks"]} == {"answer", "caption"}
    assert info["lacks"]["answer"].endswith("configs/finetune/vqa.py trains it")


def test_tasks_are_what_was_trained(model):
    assert model.tasks == (
        "encode_image",
        "encode_text",
        "similarity",
        "match",
        "search",
        "locate",
        "fill_mask",
        "classify",
    )
    with pytest.raises(NotTrained, match=r"no caption decoder; it can: encode_image.*captioning"):
        model.caption(runs.picture("red"))
    with pytest.raises(NotTrained, match=r"no head or decoder for answers.*finetune/vqa"):
        model.answer(runs.picture("red"), "is it red")
    with pytest.raises(NotTrained, match=r"no fine-tuned head for classes"):
        model.classify(runs.picture("red"))


def test_a_run_of_texts_alone_says_what_it_lacks(tmp_path):
    def texts(data):
        source = f"jsonl:{data / 'records.jsonl'}"
        return {"streams": {"text": runs.stream("text", source, 4, {"mlm": 1.0}, max_len=20)}}

    bert = {"name": "bert", "vocab_size": 80, "max_positions": 20, "text": runs.LAYER}
    model = unified_fm.load(runs.make(tmp_path, texts, bert), **ONE)
    assert model.tasks == ("encode_text", "fill_mask")
    assert model.encode_text(["a red square"], project=False).shape == (1, 16)
    with pytest.raises(NotTrained, match=r"no projection.*project=False"):
        model.encode_text("a red square")
    with pytest.raises(NotTrained, match="no image encoder"):
        model.encode_image(runs.picture("red"), project=False)
    with pytest.raises(NotTrained, match="no head for masked words over an image"):
        model.fill_mask("a [MASK]", runs.picture("red"))


@pytest.mark.parametrize("name", ["bert_small", "roberta_small"])
def test_a_hugging_face_folder_of_texts(name, tmp_path):
    config, params = folder(name, tmp_path / "hf")
    (tmp_path / "hf" / "vocab.txt").unlink()
    words = tokenizer_training.train_wordpiece(["a square"], config["vocab_size"], ["red"])
    words.save(tmp_path / "hf")
    model = unified_fm.load(tmp_path / "hf", **ONE)
    encoded = words.encode("a red square", 16)
    ids, mask = encoded.ids[encoded.mask][None], encoded.mask[encoded.mask][None]
    inputs = {"input_ids": ids, "attention_mask": mask.astype(int)}
    expected = numpy_models.outputs(config, params, inputs)["hidden"][0, 0]
    found = model.encode_text("a red square", project=False, normalize=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert model.info["kind"] == "hf"


def test_a_hugging_face_folder_of_images(tmp_path):
    config, params = folder("vit_small", tmp_path / "hf")
    (tmp_path / "hf" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.25, 0.5, 0.75], "image_std": [0.5, 0.25, 0.5]})
    )
    model = unified_fm.load(tmp_path / "hf", **ONE)
    size = config["image_size"]
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    pixels = (image / 255 - [0.25, 0.5, 0.75]) / [0.5, 0.25, 0.5]
    inputs = {"pixel_values": pixels.transpose(2, 0, 1)[None]}
    expected = numpy_models.outputs(config, params, inputs)["hidden"][0, 0]
    found = model.encode_image(image, project=False, normalize=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert "encode_image" in model.tasks and "encode_text" not in model.tasks


def test_imported_weights_load_as_the_folder_they_are_of(tmp_path, capsys):
    folder("vit_small", tmp_path / "hf")
    given = ["import", "--from=vit", f"--file={tmp_path / 'hf'}", f"--to={tmp_path / 'ours'}"]
    assert convert.main(given) == 0
    ours, theirs = (unified_fm.load(tmp_path / name, **ONE) for name in ("ours", "hf"))
    assert ours.info["kind"] == "weights"
    image = runs.picture("red")
    np.testing.assert_array_equal(
        ours.encode_image(image, project=False), theirs.encode_image(image, project=False)
    )


def test_wrong_arguments_are_refused(workdir):
    with pytest.raises(ValueError, match="batch_size is 0"):
        unified_fm.load(workdir, batch_size=0)
    with pytest.raises(ValueError, match="dtype is 'float16'; possible: float32, bfloat16"):
        unified_fm.load(workdir, dtype="float16")
    with pytest.raises(ValueError, match="devices is empty; at least one is needed"):
        unified_fm.load(workdir, devices=[])


def test_a_run_without_a_checkpoint_says_so(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "0")
    with pytest.raises(ValueError, match="no complete checkpoint yet"):
        unified_fm.load(tmp_path / "run")


def test_the_package_offers_load_and_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = unified_fm.lod
