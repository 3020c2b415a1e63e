"""A run starts from weights of other libraries, and learns from a teacher that is one."""

import functools

import jax
import numpy as np
import pytest

from unified_fm import sharding, train
from unified_fm.checkpoint import store as checkpoint
from unified_fm.config import file as config_file
from unified_fm.convert import families, hf_folder, resize
from unified_fm.convert.table import flatten
from unified_fm.data.streams import stream
from unified_fm.models import bert, vit
from unified_fm.runtime.interruption import Interruption

STACK = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32}
BEIT = STACK | {"layer_scale": 0.1, "relative_position_bias": True, "key_bias": False}
TEXTS = {"text": np.ones((1, 4), int), "text_mask": np.ones((1, 4), bool)}


def folder(path, kind, model, call, batch, seed):
    """A folder of Hugging Face with random weights of a model of ours."""
    init = jax.jit(functools.partial(model.init, method=call))
    params = init(jax.random.key(seed), batch)["params"]
    params = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.01) * seed, params)
    hf_folder.write_hf_folder(kind, params, path)
    return str(path)


def logits(net, batch):
    return net.mlm_head(net(batch).text)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A RoBERTa, a BEiT of a smaller image, and a BERT as teacher."""
    root = tmp_path_factory.mktemp("sources")
    options = {"text": STACK, "vocab_size": 300}
    roberta = bert.Model(**options, max_positions=40, token_types=1, position_offset="roberta")
    beit = vit.Model(image_size=16, patch_size=8, vision=BEIT, mask_token=True, pool="mean")
    beit = beit.clone(absolute_positions=False)
    image = {"image": np.zeros((1, 16, 16, 3), np.uint8)}
    teacher = bert.Model(**options, max_positions=32)
    return {
        "text": folder(root / "roberta", "hf-roberta", roberta, logits, TEXTS, 1),
        "vision": folder(root / "beit", "hf-beit", beit, None, image, 2),
        "bert": folder(root / "bert", "hf-bert", teacher, logits, TEXTS, 3),
    }


def config(**changes):
    """Two steps of a tiny X-FM that change nothing."""
    image = {"size": 32, "patch_size": 8, "num_masked": 2, "threads": 1}
    return config_file.made(
        {
            "total_steps": 2,
            "model": {
                "name": "xfm",
                "vocab_size": 300,
                "image_size": 32,
                "patch_size": 8,
                "max_positions": 40,
                **{name: STACK for name in ("text", "vision", "fusion")},
            },
            "streams": {
                "text": stream(
                    "text",
                    "synthetic:text",
                    4,
                    {"mlm": 1.0, "distill": {"teacher": "bert", "of": "mlm"}},
                    max_len=16,
                    threads=1,
                ),
                "image": stream("image", "synthetic:image", 4, {"mim": 1.0}, **image),
            },
            "optimizer": {"lr": 0.0},
            "log": {"every": 1, "tensorboard": False},
            "report": False,
            **changes,
        }
    )


@pytest.mark.slow
@pytest.mark.nightly
def test_a_run_from_roberta_and_beit_with_a_bert_as_teacher(sources, tmp_path, monkeypatch):
    one = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", one)
    init = {"text": f"roberta:{sources['text']}", "vision": f"beit2:{sources['vision']}"}
    # Which model the teacher is, its config.json says.
    teacher = {"init": f"bert:{sources['bert']}", "streams": ["text"]}
    with Interruption() as stop:
        train.train(config(init=init, teachers={"bert": teacher}), tmp_path, stop)

    found = flatten(checkpoint.load_params(tmp_path))
    text = flatten(families.load("roberta", sources["text"]))
    vision = flatten(families.load("beit2", sources["vision"]))
    table = "vision/layer_00/relative_position_bias"
    assert vision[table].shape == (12, 2) and found[table].shape == (52, 2)
    vision[table] = resize.resize_table(vision[table], 4)
    for name, leaf in (text | vision).items():
        np.testing.assert_allclose(found[name], leaf, atol=1e-6, err_msg=name)
    assert {"text_embed/word/embedding", "mlm_head/bias", "patch_embed/kernel"} <= found.keys()
    assert (tmp_path / "metrics.jsonl").read_text().count('"text/distill"') == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "robert:x"}, "config.init: unknown family 'robert'; nearest: roberta; possible:"),
        ({"init": "roberta"}, r"no file or folder roberta \(of other libraries: FAMILY:PATH, bert"),
        ({"init": {"step": 3}}, "config.init names no source; Possible: all, path, text, vision"),
        ({"init": {"txt": "bert:x"}}, "config.init has no key 'txt'; did you mean 'text'"),
        ({"init": {"path": "x", "pth": 1}}, "config.init has no key 'pth'; did you mean 'path'"),
        ({"init": "bert:no/such"}, "config.init: there is no file or folder no/such"),
        ({"init": {"path": ".", "fresh": ["a("]}}, r"init.fresh: 'a\(' is no rule: missing \)"),
        ({"init": {"path": ".", "copy": ["ab."]}}, "init.copy: 'ab.' is no rule: too many values"),
        ({"init": 3}, "config.init must be dict or str or None, found 3"),
        (
            {"teachers": {"bert": {"init": "brt:x", "streams": ["text"]}}},
            "config.teachers.bert.init: unknown family 'brt'; nearest: bert",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_any_device_work(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        config(**changes)
