"""Captioning: the prompt, the smoothed loss, what is written, and how it is scored."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.tasks import answering, official_files, writers
from unified_fm.data.skips import Skip
from unified_fm.models.config import EncoderConfig
from unified_fm.models.heads import MlmHead
from unified_fm.models.memory import ImageMemory
from unified_fm.plugins import build
from unified_fm.tasks import captioning
from unified_fm.tasks._scoring import scorers
from unified_fm.tasks._writing import text_of

RNG = np.random.default_rng(0)


def pipeline(**options):
    given = {"tokenizer": writers.BYTES, "augment": "none", "max_len": 32} | writers.PIXELS
    return captioning.Pipeline(**given | options)


def example(text):
    return {"id": 7, "image": np.full((20, 30, 3), 9, np.uint8), "text": text}


def spelled(text):
    return [writers.BYTES.cls_id, *writers.BYTES.encode(text, 64).ids[1:][: len(text.encode())]]


def test_a_caption_follows_the_prompt_and_the_loss_counts_what_is_behind_it():
    made = pipeline()(example(["A dog."]), RNG)
    assert made["image"].shape == (16, 16, 3)
    assert made["prompt"].tolist() == spelled("a picture of")
    known = len("<a picture of")
    assert made["text"][:known].tolist() == made["prompt"].tolist()
    counted = made["text"][made["loss_mask"]]
    assert counted[-1] == writers.BYTES.sep_id
    assert writers.BYTES.decode(counted) == " a dog"  # cleaned as in pre-training
    assert made["loss_mask"].sum() == len(" a dog") + 1
    assert text_of(writers.BYTES, [*counted, 9, 9]) == "a dog"


def test_a_long_caption_is_cut_and_another_prompt_is_possible():
    made = pipeline(max_len=18)(example("a very long caption"), RNG)
    assert writers.BYTES.decode(made["text"][made["loss_mask"]]) == " a v"
    assert made["text_mask"].all()
    bare = pipeline(prompt="")(example("a dog"), RNG)
    assert bare["prompt"].tolist() == [writers.BYTES.cls_id]
    assert writers.BYTES.decode(bare["text"][bare["loss_mask"]]) == "a dog"
    with pytest.raises(ValueError, match="max_len is 10; the prompt 'a picture of', a word"):
        pipeline(max_len=10)


def test_to_predict_no_caption_is_needed():
    made = pipeline(truth="unused")(example(None), RNG)
    assert sorted(made) == ["image", "prompt"]
    with pytest.raises(Skip, match="no text"):
        pipeline()(example(None), RNG)


def test_references_come_along_as_words():
    made = pipeline(references=3, reference_bytes=12)(example(["A dog's bone!", "x" * 20]), RNG)
    rows = [bytes(row).rstrip(b"\0") for row in made["references"]]
    assert rows == [b"a dog 's", b"", b""]  # cut behind a word; no word; no third caption


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_smoothed_loss_is_the_cross_entropy_to_smoothed_targets(smoothing):
    """(1 - e) for the true word and e / (V - 1) for each other one."""
    config = EncoderConfig(layers=1, width=8, heads=1, mlp_width=8)
    head, rng = MlmHead(config, 11), np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 8)).astype(np.float32)
    ids = rng.integers(0, 11, (2, 3))
    params = head.init({"params": jax.random.key(0)}, x)["params"]
    params = params | {"bias": rng.normal(size=11).astype(np.float32)}
    log_p = writers.log_softmax(head.apply({"params": params}, x))
    target = np.full((2, 3, 11), smoothing / 10)
    np.put_along_axis(target, ids[..., None], 1 - smoothing, axis=-1)
    found, _ = head.apply(
        {"params": params}, x, ids, smoothing=smoothing, method=MlmHead.cross_entropy
    )
    np.testing.assert_allclose(found, -(target * log_p).sum(-1), rtol=1e-5)


def test_words_that_are_never_written_have_no_share_in_the_loss():
    config = EncoderConfig(layers=1, width=8, heads=1, mlp_width=8)
    head, rng = MlmHead(config, 11), np.random.default_rng(0)
    x = rng.normal(size=(4, 8)).astype(np.float32)
    ids = np.array([0, 1, 2, 3])
    params = head.init({"params": jax.random.key(0)}, x)["params"]
    logits = np.array(head.apply({"params": params}, x), np.float64)
    logits[:, [5, 7]] = -np.inf
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(4), ids]
    call = {"method": MlmHead.cross_entropy, "never": (5, 7)}
    found, _ = head.apply({"params": params}, x, ids, **call)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"smoothing 0\.1 needs every word"):
        head.apply({"params": params}, x, ids, smoothing=0.1, **call)


@pytest.fixture(scope="module")
def world():
    """(objective, parameters, a batch of three captions)."""
    objective = build(
        "objectives", "captioning", tokenizer=writers.BYTES, beams=2, max_new_tokens=5
    )
    texts = ["red hat", "a dog in the sun", "x"]
    rng = np.random.default_rng(4)
    made = [
        pipeline()(example(text) | {"image": rng.integers(0, 255, (16, 16, 3), np.uint8)}, RNG)
        for text in texts
    ]
    batch = {name: jnp.asarray(np.stack([each[name] for each in made])) for name in made[0]}
    return objective, writers.params(objective, batch), batch


def logits_of(net, batch):
    decoder = net.attach(captioning.NAME, net.text_decoder())
    return decoder.logits(decoder(batch["text"][:, :-1], ImageMemory(image=net(batch).image)))


def test_the_loss_is_the_mean_over_the_tokens_behind_the_prompts(world):
    objective, params, batch = world
    weighted = batch | {"weight": jnp.array([1.0, 1.0, 0.0])}
    found = writers.ask(writers.value(objective), params, weighted)
    log_p = writers.log_softmax(writers.ask(logits_of, params, batch))
    ids, mask = np.asarray(batch["text"])[:, 1:], np.asarray(batch["loss_mask"])[:, 1:].copy()
    mask[2] = False
    own = np.take_along_axis(log_p, ids[..., None], -1)[..., 0]
    rest = log_p.sum(-1) - own
    loss = -(0.9 * own + 0.1 / 269 * rest)
    assert found.denominator == mask.sum() == len(" red hat") + len(" a dog in the sun") + 2
    assert found.loss == pytest.approx((loss * mask).sum() / mask.sum(), rel=1e-4)
    right = log_p.argmax(-1) == ids
    assert found.metrics["accuracy"] == pytest.approx((right * mask).sum() / mask.sum(), abs=1e-6)


def test_the_gradient_reaches_the_decoder_and_the_vision_encoder_alone(world):
    objective, params, batch = world
    assert set(params) > {"text", "text_embed"}
    reached = writers.parts(writers.learnt(objective)(params, batch, None)[1])
    assert reached == {"caption_decoder", "patch_embed", "vision"}


def test_what_is_predicted_is_no_special_token_and_ends_with_the_end(world):
    objective, params, batch = world
    asked = {name: batch[name] for name in ("image", "prompt")}
    found = writers.ask(writers.said(objective), params, asked)
    assert found["ids"].shape == (3, 5) and found["score"].shape == (3,)
    known = writers.BYTES
    assert known.vocab_size == 261 and writers.NET.vocab_size == 270
    allowed = ~known.is_special
    allowed[known.sep_id] = True
    assert allowed[found["ids"]].all()  # nor an id beyond the tokenizer's
    assert {*objective.never(270)} == {*np.flatnonzero(~allowed), *range(261, 270)}


def test_captions_are_written_scored_and_submitted(tmp_path):
    official_files.write_karpathy(tmp_path)
    said = {103: "picture 3 caption 0", 104: "a dog"}

    def say(batch):
        texts = [said[103 + n] for n in range(2)]
        ids = [writers.BYTES.encode(f" {text}", 40).ids[1:] for text in texts]
        return {"ids": np.stack(ids)[: len(batch["prompt"])]}

    source = f"karpathy:{tmp_path}/dataset_coco.json:test"
    made = answering.evaluator(
        captioning, source, epath.Path(tmp_path), learnt={}, max_len=40, **writers.PIXELS
    )
    made.check()
    found = {metric.name: metric for metric in made.run(answering.Apply(say), {})}
    assert tuple(found) == made.metric_names
    folder = tmp_path / "predictions"
    lines = [json.loads(line) for line in (folder / "dev-7.jsonl").open()]
    assert [(line["id"], line["prediction"]) for line in lines] == list(said.items())
    assert [len(line["truth"]) for line in lines] == [6, 5]
    results = folder / "dev-7_results.json"
    assert json.loads(results.read_text())[1] == {"image_id": 104, "caption": "a dog"}
    again = scorers.score_captions(results, tmp_path / "dataset_coco.json", split="test")
    assert found["cider"].value == again.statistics["cider"].value > 0
    assert found["bleu1"].chance == again.chance["bleu1"]
