"""What the tabs ask, without Gradio: the same numbers as the model's, drawings, and sentences."""

import configparser
import pathlib
import sys
import types
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tests.inference import runs
from unified_fm import cli
from unified_fm.page import asking, guard, serving, tabs


@pytest.fixture
def red(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(runs.png(runs.picture("red", 40, 60)))
    return str(path)


def test_match_and_words_are_those_of_the_model(model, red):
    share = model.match(red, "a red square")
    assert asking.match(model, red, " a red square ") == {"fits": share, "does not fit": 1 - share}
    for path in (None, red):
        masked = model.fill_mask("a [MASK] square", path)[0]
        assert asking.words(model, "a [MASK] square", path) == dict(masked)


def test_find_takes_a_text_or_an_image_and_names_files(model, red, tmp_path):
    blue = tmp_path / "blue.png"
    blue.write_bytes(runs.png(runs.picture("blue")))
    gallery = [red, str(blue)]
    hits = model.search("a red square", gallery, k=2)
    expected = [(gallery[hit.index], f"cosine {hit.score:.3f}") for hit in hits]
    assert asking.find(model, gallery, "a red square", None, 20) == expected
    assert asking.find(model, gallery, "", str(blue), 1) == [(str(blue), "cosine 1.000")]


def test_the_box_is_drawn_into_the_image(model, red):
    box = model.locate(red, "a red square")
    drawn, told = asking.locate(model, red, "a red square")
    pixels = np.asarray(drawn).astype(int)
    was = runs.picture("red", 40, 60)
    changed = np.argwhere((pixels != was).any(-1))
    x0, y0, x1, y1 = (round(value) for value in box[:4])
    inside = np.argwhere((pixels == (255, 0, 0)).all(-1))
    assert pixels.shape == was.shape and len(changed)
    assert (inside.min(0) == (y0, x0)).all()
    assert (inside.max(0) == np.minimum((y1, x1), (39, 59))).all()
    assert told.startswith(f"x {x0} to {x1}, y {y0} to {y1} pixels") and f"{box.score:.1%}" in told


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        (np.zeros((40, 60, 4), np.uint8), 255),  # black, and nothing of it is to be seen
        (np.full((40, 60), 128 * 256, np.uint16), 128),
    ],
)
def test_the_box_is_drawn_into_what_the_model_sees(model, tmp_path, stored, seen):
    path = tmp_path / "a.png"
    Image.fromarray(stored).save(path)
    drawn, _ = asking.locate(model, str(path), "a red square")
    assert np.median(np.asarray(drawn)) == seen
    assert (np.asarray(model._parts.preprocessing.resized(str(path))) == seen).all()


def test_every_mask_is_answered(model, red):
    for path in (None, red):
        first, second = model.fill_mask("a [MASK] <mask>", path)
        expected = [(f"1: {word}", share) for word, share in first]
        expected += [(f"2: {word}", share) for word, share in second]
        assert asking.words(model, "a [MASK] <mask>", path) == dict(expected)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("page.jpg", b"<html><body>no image</body></html>", "image"),
        ("empty.png", b"", "image"),
        ("bomb.png", None, "pixels"),
    ],
)
def test_a_bad_upload_is_a_sentence_without_a_folder(model, tmp_path, name, content, said):
    path = tmp_path / name
    if content is None:
        Image.new("1", (30_000, 30_000)).save(path)
        assert path.stat().st_size < 1_000_000
    else:
        path.write_bytes(content)
    for ask in (asking.match, asking.locate):
        with pytest.raises(ValueError, match=said) as caught:
            ask(model, str(path), "a square")
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda model, red: asking.match(model, None, "a"), "upload an image first"),
        (lambda model, red: asking.match(model, red, "  "), "write a text first"),
        (lambda model, red: asking.match(model, red, "a" * 1001), "1,001 characters"),
        (lambda model, red: asking.words(model, "no mask", None), "MASK"),
        (lambda model, red: asking.find(model, [], "a", None, 3), "gallery is empty"),
        (lambda model, red: asking.find(model, [red] * 65, "a", None, 3), "65 images"),
        (lambda model, red: asking.find(model, [red], "", None, 3), "say what to find"),
    ],
)
def test_what_is_missing_is_said(model, red, ask, said):
    with pytest.raises(ValueError, match=said):
        ask(model, red)


def test_tabs_that_are_absent_are_named_with_what_trains_them(model):
    assert tabs.absent(model) == [
        "Ask: no head or decoder for answers; configs/finetune/vqa.py trains it",
        "Describe: no caption decoder; configs/finetune/captioning.py trains it",
    ]
    gr = mock.MagicMock()
    tabs.build(model, gr)
    assert [call.args[0] for call in gr.Tab.call_args_list] == [
        *("Match", "Find", "Locate", "Masked words", "About"),
    ]
    told = gr.Markdown.call_args_list[1].args[0]
    assert told.startswith("There is no tab") and all(line in told for line in tabs.absent(model))


def test_all_that_the_tabs_ask_is_compiled_beforehand(model, tmp_path):
    said = []
    serving.warm(model, tmp_path, said.append)
    assert [line.split(": ")[1].split(",")[0] for line in said] == [
        "match",
        "search",
        "locate",
        "fill_mask",
    ]


def test_an_address_that_others_reach_is_refused(capsys):
    assert cli.main(["serve", "--run=gone", "--host=0.0.0.0"]) == 2
    assert "--i-know allows it" in capsys.readouterr().err
    serving.check_host("0.0.0.0", known=True)
    assert guard.is_loopback("127.0.0.1") and serving.check_host("127.0.0.1", False) is None


def test_without_gradio_the_line_that_installs_it_is_said(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["serve", "--run=gone"]) == 2
    assert 'pip install "unified_fm[page]"' in capsys.readouterr().err


@pytest.mark.parametrize("version", ["6.6.2", "5.49.1", "4.0"])
def test_an_older_gradio_is_refused(capsys, monkeypatch, version):
    gradio = types.SimpleNamespace(__version__=version)
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    assert cli.main(["serve", "--run=gone"]) == 2
    said = capsys.readouterr().err
    assert f"gradio {serving.LEAST} or newer, found {version}" in said and serving.INSTALL in said


def test_the_oldest_gradio_is_that_of_the_extra(monkeypatch):
    config = configparser.ConfigParser()
    config.read(pathlib.Path(__file__).parents[2] / "setup.cfg")
    assert config["options.extras_require"]["page"] == f"gradio>={serving.LEAST}"
    for version in (serving.LEAST, "6.31.0", "10.0.0b1"):
        gradio = types.SimpleNamespace(__version__=version)
        monkeypatch.setitem(sys.modules, "gradio", gradio)
        assert serving.library() is gradio


def test_a_port_that_is_taken_is_said():
    with serving.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(serving.Unserved, match=f"127.0.0.1:{port}.*try another --port"):
            serving.listen("127.0.0.1", port)
