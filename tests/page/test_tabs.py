"""The tabs, in widgets that only note what they are given: what each asks, and its examples."""

import contextlib
import types
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tests.demo.fake_packages import packages as packages
from tests.inference import runs
from unified_fm.demo import corpus
from unified_fm.inference.abilities import METHODS, NotTrained
from unified_fm.inference.results import Box, Hit
from unified_fm.page import asking, samples, serving, tabs


class Model:
    """Answers as `unified_fm.inference.model.Model` does, and notes what it is asked."""

    def __init__(self, *lacks):
        self.info = {"model": "xfm", "lacks": dict.fromkeys(lacks, "no head")}
        self.tasks = tuple(name for name in METHODS if name not in lacks)
        self.asked = []

    def has(self, task):
        return task not in self.info["lacks"]

    def need(self, task):
        if not self.has(task):
            raise NotTrained(f"no {task}")

    def match(self, image, text):
        self.asked.append(("match", image, text))
        return 0.75

    def search(self, query, gallery, k):
        self.asked.append(("search", query, gallery, k))
        return [Hit(n, 1 - n / 10) for n in range(min(k, len(gallery)))]

    def locate(self, image, phrase):
        self.asked.append(("locate", image, phrase))
        return Box(2.0, 3.0, 9.0, 12.0, 0.5)

    def fill_mask(self, text, image, k):
        self.asked.append(("fill_mask", text, image, k))
        return [[("red", 0.5), ("blue", 0.25)]] * text.count("[MASK]")

    def answer(self, image, question, k):
        self.asked.append(("answer", image, question, k))
        return [("yes", 0.75), ("no", 0.25)]

    def caption(self, image):
        self.asked.append(("caption", image))
        return "a red square"


class Gradio:
    """The part of Gradio that the page is made with."""

    class Error(Exception):
        def __init__(self, said, print_exception=True):
            super().__init__(said)
            self.print_exception = print_exception

    def __init__(self):
        self.tabs, self.methods, self.examples = [], {}, []

    def __getattr__(self, name):
        return lambda *given, **options: mock.MagicMock()  # a widget

    def Tab(self, name):
        self.tabs.append(name)
        return contextlib.nullcontext()

    def Examples(self, rows, components, **more):
        assert more["cache_examples"] is False
        self.examples.append((self.tabs[-1], rows, components))

    def on(self, events, answer, given, out, api_name):
        self.methods[api_name] = (answer, given)

    def ask(self, name, *given):
        """What a method answers, as the button and the HTTP API do."""
        answer, components = self.methods[name]
        assert len(given) == len(components)
        return answer(*given)


@pytest.fixture
def red(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(runs.png(runs.picture("red")))
    return str(path)


@pytest.fixture
def page():
    """(the widgets, the model) of a page with all tabs and no examples."""
    gradio, model = Gradio(), Model()
    tabs.build(model, gradio)
    return gradio, model


def test_answers_and_descriptions_are_those_of_the_model(red):
    model, content = Model(), runs.png(runs.picture("red"))
    assert asking.answer(model, red, " is it red? ") == {"yes": 0.75, "no": 0.25}
    assert asking.describe(model, red) == "a red square"
    assert model.asked == [("answer", content, "is it red?", 5), ("caption", content)]
    for ask in (lambda: asking.answer(model, None, "is it?"), lambda: asking.describe(model, None)):
        with pytest.raises(ValueError, match="upload an image first"):
            ask()
    with pytest.raises(ValueError, match="write a text first"):
        asking.answer(model, red, "")


def test_there_is_a_tab_for_all_that_the_model_can(page):
    names = ["Match", "Find", "Locate", "Masked words", "Ask", "Describe", "About"]
    assert page[0].tabs == names
    assert [*page[0].methods] == ["match", "find", "locate", "fill_mask", "ask", "describe"]
    assert page[0].examples == []
    few = Gradio()
    tabs.build(Model("answer", "caption", "locate"), few)
    assert few.tabs == ["Match", "Find", "Masked words", "About"]


def test_every_tab_asks_its_method(page, red):
    gradio, model = page
    assert gradio.ask("match", red, "a") == {"fits": 0.75, "does not fit": 0.25}
    assert gradio.ask("find", [red, red], "a", None, 1) == [(red, "cosine 1.000")]
    drawn, told = gradio.ask("locate", red, "a")
    assert drawn.size == (30, 20) and told.startswith("x 2 to 9, y 3 to 12 pixels")
    words = {"red": 0.5, "blue": 0.25}
    assert gradio.ask("fill_mask", "a [MASK]", red) == (words, words)
    assert gradio.ask("fill_mask", "a [MASK]", None) == (words, None)
    assert gradio.ask("ask", red, "is it red?") == {"yes": 0.75, "no": 0.25}
    assert gradio.ask("describe", red) == "a red square"
    expected = ["match", "search", "locate", *["fill_mask"] * 3, "answer", "caption"]
    assert [asked[0] for asked in model.asked] == expected


def test_what_cannot_be_answered_is_a_sentence_without_a_traceback(page, red, tmp_path):
    gradio = page[0]
    for name, given, said in (
        ("ask", (red, " "), "write a text first"),
        ("describe", (None,), "upload an image first"),
        ("describe", (str(tmp_path / "gone.png"),), "No such file"),
    ):
        with pytest.raises(gradio.Error, match=said) as caught:
            gradio.ask(name, *given)
        assert not caught.value.print_exception
    alone = Gradio()
    tabs.build(Model("fill_mask_alone"), alone)
    with pytest.raises(alone.Error, match="with an image only"):
        alone.ask("fill_mask", "a [MASK]", None)


def test_widgets_give_the_paths_of_what_was_uploaded(page):
    gallery, _, image, _ = page[0].methods["find"][1]
    file = types.SimpleNamespace(path="a.png")

    class Shown(types.SimpleNamespace):
        model_fields = ("image", "caption")

    class Film(types.SimpleNamespace):
        model_fields = ("video", "caption")

    assert image.preprocess(None) is gallery.preprocess(None) is None
    assert image.preprocess(file) == "a.png"
    given = types.SimpleNamespace(root=[Shown(image=file), Film(video=file)])
    assert gallery.preprocess(given) == ["a.png"]


def test_held_out_scenes_are_examples_that_can_be_asked(packages, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFIED_FM_DATA", str(tmp_path))
    assert samples.scenes(tmp_path) == []  # there is no corpus yet
    corpus.prepare(tmp_path, parts=["objects"], progress=False)
    (uploads := tmp_path / "uploads").mkdir()
    scenes = samples.scenes(uploads, count=2)
    assert sorted(path for path, _ in scenes) == sorted(map(str, uploads.iterdir()))
    for path, _ in scenes:
        assert np.asarray(Image.open(path)).shape == (48, 48, 3)
    gradio, model = Gradio(), Model()
    tabs.build(model, gradio, scenes)
    names = ["Match", "Find", "Locate", "Masked words", "Ask", "Describe"]
    assert [name for name, _, _ in gradio.examples] == names
    for (_, rows, shown), (method, (_, given)) in zip(
        gradio.examples, gradio.methods.items(), strict=True
    ):
        rest = {"find": ([scenes[0][0]], "", None, 3), "ask": (None, "what is it?")}.get(method)
        assert len(rows) == 2
        for row in rows:
            named = dict(zip(map(id, shown), row, strict=True))
            default = rest or [None] * len(given)
            gradio.ask(method, *(named.get(id(x), y) for x, y in zip(given, default, strict=True)))
    texts = [text for _, text in scenes]
    asked = {name: [own[1:] for own in model.asked if own[0] == name] for name in model.tasks}
    assert [own[1] for own in asked["match"]] == [own[0] for own in asked["search"]] == texts
    for (_, phrase), text in zip(asked["locate"], texts, strict=True):
        assert text.endswith(phrase) and " and " not in phrase and "," not in phrase
    assert [own[0].removesuffix(" [MASK]") for own in asked["fill_mask"][::2]] == [
        text.rpartition(" ")[0] for text in texts
    ]
    assert [len(asked[name]) for name in ("answer", "caption")] == [2, 2]


def test_all_tabs_are_warmed(tmp_path):
    said = []
    serving.warm(Model(), tmp_path, said.append)
    told = [line.split(": ")[1].split(",")[0] for line in said]
    assert told == ["match", "search", "locate", "fill_mask", "answer", "caption"]
