import pytest

from unified_fm import rules

TREE = {
    "text": {"layer_00": {"mlp_in": {"kernel": 0, "bias": 0}}},
    "temperature": 0,
    "heads": [0, 0],
}


def test_paths_are_written_with_slashes():
    assert rules.names(TREE) == [
        "heads/0",
        "heads/1",
        "temperature",
        "text/layer_00/mlp_in/bias",
        "text/layer_00/mlp_in/kernel",
    ]


def test_first_match_wins_and_the_whole_path_must_match():
    given = rules.assign(TREE, [(".*/bias", 0.0), ("text", 9.0), ("text/.*", 2.0), (".*", 1.0)])
    assert given == {
        "text": {"layer_00": {"mlp_in": {"kernel": 2.0, "bias": 0.0}}},
        "temperature": 1.0,
        "heads": [1.0, 1.0],
    }


def test_unmatched_parameters_are_listed():
    with pytest.raises(ValueError, match=r"lr_scale: no rule matches 3 parameter") as error:
        rules.assign(TREE, [("text/.*", 1.0)], what="lr_scale")
    assert "heads/0\n" in str(error.value)
    assert "temperature\n" in str(error.value)


def test_a_broken_rule_is_named():
    with pytest.raises(ValueError, match=r"decay: '\(' is not a regular expression"):
        rules.assign(TREE, [("(", 1.0)], what="decay")
    with pytest.raises(ValueError, match="a rule is a pair"):
        rules.assign(TREE, ["text"])


def test_values_may_be_anything():
    assert rules.assign({"a": 0, "b": 0}, [("a", "tensor"), ("b", None)]) == {
        "a": "tensor",
        "b": None,
    }


def test_rules_that_decide_nothing_are_found():
    assert rules.unused(TREE, [("txet/.*", 2.0), (".*", 1.0), ("text/.*", 3.0)]) == [
        "txet/.*",
        "text/.*",
    ]


def test_rules_that_decide_nothing_are_refused_but_for_the_rest():
    rules.check_used(TREE, [("heads/.*|temperature", 2.0), ("text/.*", 1.0), (".*", 3.0)])
    wanted = (
        r"config.rules.lr_scale: 2 rule\(s\) decide no parameter:\n"
        r"  txet/.\*\n  text/layer_01/.\*\n"
        "Is a path misspelt, .* Paths begin with heads, temperature, text; "
    )
    with pytest.raises(ValueError, match=wanted):
        given = [("txet/.*", 2.0), ("text/layer_01/.*", 2.0), (".*", 1.0)]
        rules.check_used(TREE, given, what="config.rules.lr_scale")


def test_one_path():
    assert rules.match("a/b", [("b", 1), ("a/.*", 2)]) == 2
    with pytest.raises(ValueError, match="'c'"):
        rules.match("c", [("b", 1)])
