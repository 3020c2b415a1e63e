"""What a wrong name is answered with."""

import pytest

from unified_fm import choices


def test_the_nearest_name_and_all_that_there_are():
    assert choices.possible("txt", ["text", "image"]) == (
        "did you mean 'text'? Possible: image, text."
    )
    assert choices.possible("zzz", ["text", "image"]) == "Possible: image, text."
    assert choices.possible("", []) == "Possible: none."


def test_a_choice_is_checked():
    choices.check("pool", "mean", ("mean", "class"))
    with pytest.raises(
        ValueError, match=r"pool is 'men'; did you mean 'mean'[?] Possible: mean, c"
    ):
        choices.check("pool", "men", ("mean", "class"))
    with pytest.raises(ValueError, match="pool is None; Possible"):
        choices.check("pool", None, ("mean", "class"))


def test_the_cutoff_says_how_near_is_near():
    assert choices.nearest("vision", ["text"]) is None
    assert choices.nearest("runs", ["requirements"]) is None
    assert choices.nearest("vision", ["text", "fusion"], 0.0) == "fusion"
