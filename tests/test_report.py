"""The report is parsed as a browser would: what it shows, and that nothing in data becomes HTML."""

import base64
import html.parser
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from unified_fm.evaluators.base import (
    BoxExample,
    Metric,
    ReliabilityExample,
    RetrievalExample,
    WordExample,
)
from unified_fm.report import report
from unified_fm.tasks._metrics.calibration import Bins

EVIL = '<script>alert("x")</script><img src=http://evil.example/a.png>&'


BINS = Bins(np.array([0, 3, 1]), np.array([0, 0.5, 0.9]), np.array([0, 0.4, 1.0]))


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._hidden = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._hidden = tag == "style"
        self.text += " "

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.text += data

    def all(self, tag, **wanted):
        return [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = [
        {"step": step, f"pairs{EVIL}/itc": 4.0 - step, "text/mlm": 5.0, "grad_norm": 1.0}
        | {f"telemetry/cosine/encoder/layer_{k:02d}": step - k for k in range(2)}
        for step in range(4)
    ]
    metrics = folder / "metrics.jsonl"
    metrics.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 4, "text/ml')
    image = np.full((20, 10, 3), 7, np.uint8)
    examples = {
        "retrieval": [
            RetrievalExample(image, None, ["a cat", EVIL], [False, False], ["a dog"]),
            RetrievalExample(None, "a bird", [image, image], [True, False], [image]),
        ],
        "boxes": [
            BoxExample(
                image, EVIL, np.array([0.5, 0.5, 0.4, 0.2]), np.array([0.3, 0.5, 0.2, 1.0]), 0.25
            )
        ],
        "sure": [ReliabilityExample(BINS, BINS, 0.123, 0.017, 1.618)],
        "words": [WordExample(image, "a ____ here", "cat", [("cat", 0.7), (EVIL, 0.2)])],
    }
    config = {
        "streams": {
            f"pairs{EVIL}": {
                "pipeline": "image_text",
                "source": EVIL,
                "batch_size": 64,
                "objectives": {"itc": 1.0, "itm": {"weight": 0.5}},
            },
            "text": {"pipeline": "text", "source": ["a", "b"], "objectives": {"mlm": 1.0}},
        },
        "steps": EVIL,
    }
    results = [
        Metric("retrieval/R@1 among 100", 0.942, 0.01, "random order", 0.011, "%"),
        Metric(f"boxes/{EVIL}", 0.6, 0.19, EVIL, 0.01),
        Metric("text/cross-entropy", 5.39, 5.47, "unigram", None, "", "lower"),
    ]
    path = folder / "deep" / "report.html"
    report.write_report(
        path,
        config=config,
        metrics_path=metrics,
        results=results,
        examples=examples,
        facts={"device": EVIL},
        records={"text": f"9 used, 1 skipped (1 {EVIL})"},
        title=EVIL,
    )
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text()


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_nothing_from_data_becomes_a_tag(page):
    assert page.all("script") == []
    assert page.text.count('<script>alert("x")</script>') >= 9  # shown as text, wherever it came


def test_confidence_stands_beside_accuracy_at_two_temperatures(page):
    assert "sure: is its confidence to be believed?" in page.text
    assert "T = 1: expected calibration error 12.3 %" in page.text
    assert "T = 1.62: 1.7 %" in page.text


def test_nothing_is_fetched(page, written):
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data", "srcset")
    ]
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "@import" not in written and not re.search(r"url\((?!#)", written)
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'")


def test_results_stand_beside_chance(page):
    text = " ".join(page.text.split())
    assert "R@1 among 100 94.2 ± 1.1 % 1.0 % random order" in text
    assert "cross-entropy (lower is better) 5.390 5.470 unigram" in text


def test_streams_and_configuration_are_listed(page):
    text = " ".join(page.text.split())
    assert "image_text" in text and "itc, itm x 0.5" in text and "a + b" in text
    assert "streams.text.objectives.mlm" in text


def test_every_loss_has_a_curve_and_telemetry_a_heat_map(page):
    text = page.text
    assert "text · mlm" in text and "· itc" in text and "grad_norm" in text
    assert "Telemetry: cosine" in text and "encoder/layer_01" in text
    # Losses, other curves, heat map, one picture with boxes, one of confidence.
    assert len(page.all("svg")) == 5


def test_boxes_are_drawn_in_percent_of_the_picture(page):
    (predicted,) = page.all("rect", **{"class": "predicted"})
    (target,) = page.all("rect", **{"class": "target"})
    sides = ("x", "y", "width", "height")
    assert [predicted[s] for s in sides] == ["30.0%", "40.0%", "40.0%", "20.0%"]
    assert [target[s] for s in sides] == ["20.0%", "0.0%", "20.0%", "100.0%"]


def test_images_are_inline_and_whole(page):
    image = page.all("img")[0]
    data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), 7)


def test_words_and_captions_say_what_is_right(page):
    assert page.all("div", **{"class": "guess right"}) != []
    assert page.all("div", **{"class": "picture right"}) != []
    assert "missed: a dog" in page.text


def test_large_images_are_made_small():
    picture = report.picture(np.zeros((400, 800, 3), np.uint8))
    data = base64.b64decode(picture["source"].split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (192, 96)


def test_a_run_without_metrics_still_gets_a_report(tmp_path):
    report.write_report(tmp_path / "r.html", config={}, metrics_path=tmp_path / "none.jsonl")
    assert "<svg" not in (tmp_path / "r.html").read_text()


def test_importing_the_package_does_not_import_matplotlib():
    code = "import sys, unified_fm.report.report; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
