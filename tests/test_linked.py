"""Sources by reference: what another stream reads, and what it leaves."""

import pytest

from unified_fm.config import file, linked

CONFIG = {
    "streams": {
        "pairs": {"source": "jsonl:a[1].jsonl[:90%]"},
        "text": {"source": "stream:pairs"},
    },
    "evaluate": {
        "every": 3,
        "evaluators": {
            "itm": {"source": "rest:pairs", "batch_size": 2},
            "mlm": {"source": "jsonl:b", "train_source": "stream:pairs"},
        },
    },
}


def test_a_source_by_reference_is_the_one_that_stands_there():
    found = linked.filled(CONFIG)
    assert found["streams"] == {
        "pairs": {"source": "jsonl:a[1].jsonl[:90%]"},
        "text": {"source": "jsonl:a[1].jsonl[:90%]"},
    }
    assert found["evaluate"] == {
        "every": 3,
        "evaluators": {
            "itm": {"source": "jsonl:a[1].jsonl[90%:]", "batch_size": 2},
            "mlm": {"source": "jsonl:b", "train_source": "jsonl:a[1].jsonl[:90%]"},
        },
    }


@pytest.mark.parametrize(
    ("source", "rest"),
    [
        ("folder:x[:95% by hash(image)]", "folder:x[95%: by hash(image)]"),
        ("tfds:a:train[:80%]", "tfds:a:train[80%:]"),
        ("jsonl:x[: 1000 ]", "jsonl:x[1000:]"),
        (["a:x[:90%]", "b:y[:9.5%]"], ["a:x[90%:]", "b:y[9.5%:]"]),
        ("jsonl:x[:90%]+csv:y[:80%]", "jsonl:x[90%:]+csv:y[80%:]"),
        ("jsonl:x+csv:y[:90%]", None),  # all of x is trained on
        ("folder:x", None),
        ("folder:x[10%:90%]", None),
        (["a:x[:90%]", "b:y"], None),
    ],
)
def test_what_the_first_part_of_a_source_leaves(source, rest):
    assert linked.rest(source) == rest


def test_where_nothing_is_left_the_log_says_so(caplog):
    streams = {"pairs": {"source": "folder:x"}}
    given = {"streams": streams, "evaluate": {"evaluators": {"itm": {"source": "rest:pairs"}}}}
    found = linked.filled(given)
    assert found["evaluate"]["evaluators"]["itm"]["source"] == "folder:x"
    assert "itm.source reads what the stream 'pairs' is trained on" in caplog.text


def test_a_reference_to_nothing_or_to_a_reference_is_refused():
    streams = {"text": {"source": "stream:pair"}, "pairs": {"source": "x:y"}}
    with pytest.raises(ValueError, match="no stream 'pair'; did you mean 'pairs'"):
        linked.filled({"streams": streams})
    streams["text"]["source"], streams["pairs"]["source"] = "stream:pairs", "stream:text"
    with pytest.raises(ValueError, match=r"streams\.text\.source is 'stream:pairs', and"):
        linked.filled({"streams": streams})


def test_one_string_changes_all_sources_of_own_data():
    changes = ["streams.pairs.source=jsonl:mine.jsonl[:80%]"]
    settings = file.load("own_data:regions,size=96", changes)
    assert {stream.source for stream in settings.streams.values()} == {"jsonl:mine.jsonl[:80%]"}
    evaluators = settings.evaluate.evaluators
    assert set(evaluators) == {"retrieval", "itm", "mlm", "grounding"}
    assert {entry["source"] for entry in evaluators.values()} == {"jsonl:mine.jsonl[80%:]"}
    assert settings.model["image_size"] == settings.streams["regions"].options["size"] == 96
