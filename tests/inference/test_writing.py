"""Decoders: captions and answers are what their objectives predict, by method, command and page."""

import dataclasses
import json

import numpy as np
import pytest

from tests.inference import runs
from unified_fm import setup, step
from unified_fm.checkpoint import store
from unified_fm.commands import predict
from unified_fm.config import saved
from unified_fm.config.settings import Settings
from unified_fm.data.streams import stream
from unified_fm.inference import heads
from unified_fm.objectives.base import predicted
from unified_fm.page import asking
from unified_fm.tasks._writing import text_of

pytestmark = pytest.mark.slow
RED, BLUE = runs.picture("red"), runs.picture("blue")
QUESTION, LIST = "is it red?", ("yes", "no", "red")


def tasks(data):
    """A run that learns to answer and to describe; how it writes is not how the methods do."""
    (data / "answers.json").write_text(json.dumps(LIST))
    source, pixels = f"jsonl:{data}/records.jsonl", {"size": 16, "patch_size": 8}
    writing = {"beams": 2, "max_new_tokens": 3}
    answers = {"max_len": 12, "answers": str(data / "answers.json"), "images": 2}
    told = {"max_len": 12, "prompt": "a"}
    learnt = {"vqa_generation": writing}, {"captioning": writing}
    return {
        "streams": {
            "ask": stream("vqa_generation", source, 8, learnt[0], **pixels, **answers),
            "tell": stream("captioning", source, 4, learnt[1], **pixels, **told),
        }
    }


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    made = runs.make(tmp_path_factory.mktemp("writing"), tasks)
    (made.parent / "data" / "answers.json").unlink()  # the run has a copy
    return made


@pytest.fixture(scope="module")
def said(workdir, model):
    """`said(kind, item, change)`: what the run's objective, changed, predicts of an item."""
    settings = Settings.of(saved.read(workdir, ()))
    program = setup.prepare(settings, shapes={}).program
    params = store.load_params(workdir)

    def ask(kind, item, change):
        head = model._parts.head(kind)
        objective = change(program.streams[head.stream].objectives[head.name])
        batch = {name: array[None] for name, array in heads.arrays_of(head, item).items()}

        def call(net, given):
            return predicted(net, objective, net(given), given)

        found = step.make_apply(program.model)(call, params, batch)
        return {name: np.asarray(array)[0] for name, array in found.items()}

    return ask


@pytest.fixture
def red(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(runs.png(RED))
    return str(path)


@pytest.fixture
def command(model, workdir, monkeypatch, capsys):
    """What `unified-fm predict` writes about an image, on the model that is loaded already."""
    monkeypatch.setattr(predict, "load", lambda run, **options: model)

    def run(*arguments):
        assert predict.main([f"--run={workdir}", *arguments], "unified-fm predict") == 0
        [line] = capsys.readouterr().out.splitlines()
        return json.loads(line)

    return run


def test_a_caption_is_what_the_objective_writes(model, said, red, command):
    assert "caption" in model.tasks
    for how in ({"beams": 3, "max_new_tokens": 16}, {"beams": 1, "max_new_tokens": 2}):
        found = said("caption", RED, lambda own, how=how: dataclasses.replace(own, **how))
        expected = text_of(model._parts.tokenizer, found["ids"])
        assert expected and model.caption(RED, **how) == expected
    first = model.caption(RED)  # as the first of these
    assert model.caption([BLUE, RED, RED])[1:] == [first, first]
    assert command("--task=caption", red) == {"id": red, "caption": first}
    assert asking.describe(model, red) == first


def test_answers_of_a_list_are_ranked_by_the_decoder(model, said, red, command):
    ranked = said("answer", (RED, QUESTION), lambda own: own.with_answers(LIST))["ranked"]
    shares = dict(zip(LIST, np.exp(ranked), strict=True))
    order = sorted(LIST, key=shares.get, reverse=True)
    found = model.answer(RED, QUESTION, k=2)
    assert [name for name, _ in found] == order[:2]
    np.testing.assert_allclose([x for _, x in found], [shares[n] for n in order[:2]], rtol=1e-4)
    [(name, share)] = model.answer(RED, QUESTION, answers=["no"])
    assert name == "no" and share == pytest.approx(shares["no"], rel=1e-4)
    own = [[name, pytest.approx(shares[name], rel=1e-4)] for name in order]
    assert command("--task=answer", f"--text={QUESTION}", red) == {"id": red, "answers": own}
    assert asking.answer(model, red, QUESTION) == dict(own)
    with pytest.raises(ValueError, match="k is 0; at least 1"):
        model.answer(RED, QUESTION, k=0)


def test_an_open_answer_is_written_with_its_probability(model, said):
    how = {"length_penalty": 0.0}
    found = said("answer", (RED, QUESTION), lambda own: dataclasses.replace(own, **how))
    text = text_of(model._parts.tokenizer, found["ids"])
    [(answer, share)] = model.answer(RED, QUESTION, answers="open")
    assert answer == text and share == pytest.approx(np.exp(found["score"]), rel=1e-4)
    assert 0 < share <= 1
