"""What a retrieval leaves on disk: predictions that are scored again, and chunks to go on from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.evaluators import worlds
from unified_fm import cli
from unified_fm.evaluators import _chunks, retrieval
from unified_fm.evaluators._place import Place
from unified_fm.tasks._scoring import rankings


class Blurred(worlds.Oracle):
    """Takes one colour for the next, by the cosine: there is something to be ranked again."""

    def image_feature(self, views):
        found = super().image_feature(views)
        tokens = jnp.array([self.tokenizer.token_id(colour) for colour in worlds.COLOURS])
        return found.at[:, jnp.roll(tokens, 1)].add(1.2 * found[:, tokens])


@pytest.fixture(scope="module")
def tokenizer():
    return worlds.make_tokenizer()


@pytest.fixture
def world(monkeypatch):
    """Eight images; those of even number have two captions, which differ."""
    some = [
        worlds.record(c, 100 + c, text=[f"a {colour} square", colour][: 2 - c % 2])
        for c, colour in enumerate(worlds.COLOURS)
    ]
    monkeypatch.setitem(worlds.WORLDS, "some", some)
    return some


def made(tokenizer, folder, name="val", **options):
    options = {"candidates": 0, "ranks": (1, 2), "mean": True} | options
    place = Place(name, epath.Path(folder), 7)
    return worlds.evaluator(retrieval, "some", tokenizer, place=place, **options)


def run(evaluator, net, params=None):
    apply = worlds.Apply(net)
    return {m.name: m for m in evaluator.run(apply, params or {})}, apply


def test_its_lines_are_scored_to_the_same_numbers_without_the_model(
    tokenizer, world, tmp_path, capsys
):
    found, _ = run(made(tokenizer, tmp_path, rerank=3), Blurred(tokenizer))
    said = tmp_path / "predictions" / "val-7.jsonl"
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    assert [line["id"] for line in lines][6:11] == ["106", "107", "100#0", "100#1", "101#0"]
    assert lines[0]["truth"] == ["100#0", "100#1"] and lines[0]["of"] == 12
    assert len(lines[0]["prediction"]) == 3  # the others tie behind them
    truth = tmp_path / "truth.jsonl"
    truth.write_text("".join(json.dumps({"id": r["id"], "text": r["text"]}) + "\n" for r in world))
    albef = tmp_path / "albef.json"
    rows = [{"image": "x.jpg", "image_id": r["id"], "caption": r["text"]} for r in world]
    albef.write_text(json.dumps(rows))
    for stem, prefix in (("val-7", "reranked/"), ("val-7-itc", "")):
        said = tmp_path / "predictions" / f"{stem}.jsonl"
        report = json.loads(said.with_suffix(".json").read_text())
        assert report["settings"]["mix"] == ("itm" if prefix else "itc")
        for file in (truth, albef, said):
            arguments = ["--task=retrieval", f"--predictions={said}", f"--truth={file}"]
            assert cli.main(["score", *arguments]) == 0
            again = json.loads(capsys.readouterr().out)["metrics"]
            assert again["image_to_text/r1"] == report["metrics"]["image_to_text/r1"]
            for name, metric in report["metrics"].items():
                if not name.endswith("r2") and name != "mean_recall":  # `score` has 1, 5, 10
                    assert found[f"{prefix}{name}"].value == again[name]["value"] == metric["value"]
    assert found["reranked/text_to_image/r1"].value > found["text_to_image/r1"].value
    assert found["reranked/text_to_image/r1"].how == "3 by itm"


def test_the_first_captions_alone_and_the_mean_over_sets(tokenizer, world, tmp_path):
    found, _ = run(made(tokenizer, tmp_path, captions_per_image=1), worlds.Oracle(tokenizer))
    assert found["image_to_text/r1"].chance == pytest.approx(1 / 8)
    assert found["image_to_text/r1"].how == "1 captions each"

    class Fickle(worlds.Oracle):  # sees the last four images, and red everywhere before
        def image_feature(self, views):
            found = super().image_feature(views)
            red, *_ = tokens = [self.tokenizer.token_id(c) for c in worlds.COLOURS]
            later = found[:, jnp.array(tokens[4:])].sum(1, keepdims=True) > 0
            return jnp.where(later, found, jax.nn.one_hot(red, found.shape[1]))

    world[4]["text"] = ["a white square", "white", "white white"]
    options = {"candidates": 4, "ranks": (1,)}
    found, _ = run(made(tokenizer, tmp_path, **options), Fickle(tokenizer))
    # Every image of the first set is red: no caption of its 6 has a rank of its own.
    assert found["text_to_image/r1"].value == pytest.approx((0 + 1) / 2)  # not 7 of 13
    assert found["text_to_image/r1"].chance == pytest.approx(1 / 4)


def test_the_cosine_may_be_added_to_the_matching_logit(tokenizer, world, tmp_path):
    class Unsure(worlds.Oracle):
        def itm_head(self, first):
            return super().itm_head(first) * 0  # all pairs alike

    values = {}
    for mix in retrieval.MIX:
        evaluator = made(tokenizer, tmp_path, name=mix, rerank=8, mix=mix, ranks=(1,))
        found, _ = run(evaluator, Unsure(tokenizer))
        values[mix] = found["reranked/text_to_image/r1"].value
        assert found["reranked/text_to_image/r1"].how == f"8 by {mix}"
    assert values == {"itm": 0, "itm+itc": 1}
    with pytest.raises(ValueError, match=r"mix is 'itc'; .*Possible: itm, itm\+itc"):
        made(tokenizer, tmp_path, mix="itc")


def chunks_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / "predictions" / "rerank").rglob("*.npz"))
    }


def test_it_goes_on_after_the_last_finished_chunk(tokenizer, world, tmp_path, monkeypatch):
    net = Blurred(tokenizer)
    whole, apply = run(made(tokenizer, tmp_path / "whole", rerank=3), net)
    keep, kept = _chunks.Chunks.keep, []

    def stopped(self, first, *args):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(first)
        keep(self, first, *args)

    monkeypatch.setattr(_chunks.Chunks, "keep", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(made(tokenizer, tmp_path / "parts", rerank=3), net)
    assert kept == [0, 3] and len(chunks_of(tmp_path / "parts")) == 3  # with the features
    monkeypatch.setattr(_chunks.Chunks, "keep", lambda *a: (kept.append(a[1]), keep(*a)))
    parts, _ = run(made(tokenizer, tmp_path / "parts", rerank=3), net)
    assert kept == [0, 3, 6]
    assert parts == whole
    assert chunks_of(tmp_path / "parts") == chunks_of(tmp_path / "whole")
    for name in ("val-7.jsonl", "val-7.json", "val-7-itc.jsonl"):
        written = [tmp_path / each / "predictions" / name for each in ("parts", "whole")]
        assert written[0].read_bytes() == written[1].read_bytes()
    again, idle = run(made(tokenizer, tmp_path / "parts", rerank=3), net)
    assert again == whole and apply.compiled > idle.compiled == 0  # nothing is asked of the model


def test_chunks_of_another_checkpoint_data_or_k_are_never_used(tokenizer, world, tmp_path):
    apply, seen = worlds.Apply(Blurred(tokenizer)), set()

    def folder(params=None, **options):
        list(made(tokenizer, tmp_path, **{"rerank": 3} | options).run(apply, params or {}))
        [found] = (tmp_path / "predictions" / "rerank" / "val").iterdir()  # the others are removed
        seen.add(found.name)
        return found.name

    first = folder({"kernel": np.ones(3, np.float32)})
    assert folder({"kernel": np.ones(3, np.float32)}) == first
    folder({"kernel": np.full(3, 1 + 1e-7, np.float32)})
    folder(rerank=2)
    folder(captions_per_image=1)
    world[0]["image"][7, 7] = 1
    folder(rerank=2)
    assert len(seen) == 5


def test_a_damaged_chunk_is_made_again(tokenizer, world, tmp_path, caplog):
    net = Blurred(tokenizer)
    whole, _ = run(made(tokenizer, tmp_path, rerank=3), net)
    before = chunks_of(tmp_path)
    path = next((tmp_path / "predictions" / "rerank").rglob("chunk_00003.npz"))
    path.write_bytes(path.read_bytes()[:-30])
    found, _ = run(made(tokenizer, tmp_path, rerank=3), net)
    assert found == whole and chunks_of(tmp_path) == before
    assert "chunk_00003.npz is damaged, and made again" in caplog.text


def test_texts_that_read_the_same_are_told_by_the_lines(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(worlds.WORLDS, "some", worlds.WORLDS["duplicates"])
    evaluator = made(tokenizer, tmp_path, same="texts", ranks=(1,))
    found, _ = run(evaluator, worlds.Oracle(tokenizer))
    assert found["image_to_text/r1"].value == 1 and found["image_to_text/r1"].chance == 0.25
    said = tmp_path / "predictions" / "val-7.jsonl"
    assert json.loads(said.read_text().split("\n")[0])["truth"] == ["0#0", "1#0"]
    again = rankings.score_retrieval(said, said)
    assert again.statistics["image_to_text/r1"].value == 1


@pytest.mark.parametrize(
    ("streams", "said"), [({}, ""), ({"pairs": {}}, "pre-trained"), ({"task": {}}, "fine-tuned")]
)
def test_it_says_of_which_parameters_a_number_is(tokenizer, world, tmp_path, streams, said):
    streams = {name: {"source": "a:b"} for name in streams}
    evaluator = made(tokenizer, tmp_path, streams=streams)
    found, _ = run(evaluator, worlds.Oracle(tokenizer))
    assert {metric.how for metric in found.values()} == {said}
    report = json.loads((tmp_path / "predictions" / "val-7.json").read_text())
    assert report["settings"]["parameters"] == said
    assert report["settings"]["trained_on"] == [f"{name}: a:b" for name in streams]
