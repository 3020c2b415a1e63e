"""Figures of an experiment: what is drawn where, as SVG text."""

import re
import xml.etree.ElementTree as ET

import pytest

from experiments import figures
from experiments.statistics import Interval

SVG = "{http://www.w3.org/2000/svg}"


def drawn(text):
    """The elements of an SVG file by their kind; it is well formed."""
    found = {}
    for element in ET.fromstring(text).iter():
        found.setdefault(element.tag.removeprefix(SVG), []).append(element)
    return found


def words(text):
    return [element.text for element in drawn(text)["text"]]


def panel(*rows, **options):
    return figures.Panel(title="a & b", axis="share", rows=rows, **options)


def test_dots_and_means_stand_at_their_values():
    row = figures.Row(
        label="arm", dots=[0.0, 1.0], interval=Interval(0.5, 0.25, 0.75), note="(Holm)"
    )
    made = drawn(figures.forest([panel(row, marks={0.0: "joint", 1.0: "separate"})]))
    low, high, mean = (float(circle.get("cx")) for circle in made["circle"])
    assert mean == pytest.approx((low + high) / 2, abs=0.1)
    # The interval's line is the thick one; both its ends are half way from the mean to a dot.
    (line,) = (line for line in made["line"] if line.get("stroke-width") == "2")
    assert float(line.get("x1")) == pytest.approx((low + mean) / 2, abs=0.2)
    assert float(line.get("x2")) == pytest.approx((mean + high) / 2, abs=0.2)
    marks = [float(m.get("x1")) for m in made["line"] if m.get("stroke-width") == "1.2"]
    assert marks == pytest.approx([low, high], abs=0.1)
    said = [element.text for element in made["text"]]
    assert {"a & b", "joint", "separate", "arm", "0.50 [0.25, 0.75] (Holm)"} <= set(said)


def test_an_equivalence_band_lies_behind_its_row():
    plain = figures.Row(label="plain", dots=[0.0])
    banded = figures.Row(label="banded", dots=[1.0], band=(0.8, 1.2))
    made = drawn(figures.forest([panel(plain, banded)]))
    (band,) = made["rect"]
    left, width = float(band.get("x")), float(band.get("width"))
    zero, one = (float(circle.get("cx")) for circle in made["circle"])
    assert left + width / 2 == pytest.approx(one, abs=0.1)
    assert width == pytest.approx(0.4 * (one - zero), abs=0.2)
    y = float(made["circle"][1].get("cy"))
    assert float(band.get("y")) < y < float(band.get("y")) + float(band.get("height"))


def test_a_dot_far_out_is_an_arrow_at_the_edge():
    near = [figures.Row(label=str(i), dots=[i / 100]) for i in range(60)]
    text = figures.forest([panel(*near, figures.Row(label="far", dots=[1000.0]))])
    assert ">" in words(text) and len(drawn(text)["circle"]) == 60


def test_panels_without_rows_are_left_out():
    assert words(figures.forest([panel()], legend="said")) == ["said"]


def test_curves_go_from_the_first_step_to_the_last_in_one_colour_for_each_arm():
    panels = {"images": {"joint": [4.0, 2.0, 1.0]}, "text": {"joint": [6.0, 5.0], "bert": [6, 4.5]}}
    text = figures.curves(panels, arms=["bert", "joint"], steps=3000)
    bert_lines, joint_lines = [], []
    for line in drawn(text)["polyline"]:
        lines = bert_lines if line.get("stroke") == figures.PALETTE[0] else joint_lines
        lines.append([tuple(map(float, xy.split(","))) for xy in line.get("points").split()])
    assert [len(line) for line in joint_lines] == [3, 2] and len(bert_lines) == 1
    # Both start at the same loss, the lower end is lower on the page; points are mid-stretch.
    assert bert_lines[0][0] == joint_lines[1][0] and bert_lines[0][1][1] > joint_lines[1][1][1]
    left, middle, right = (x for x, _ in joint_lines[0])
    assert middle - left == pytest.approx(right - middle, abs=0.15)
    assert {"images", "text", "bert", "joint", "step", "3,000"} <= set(words(text))


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]), ((-0.31, 0.2), [-0.3, -0.2, -0.1, 0, 0.1, 0.2])],
)
def test_ticks_are_round(ends, ticks):
    assert figures._ticks(*ends) == ticks


def test_the_same_numbers_give_the_same_file():
    row = figures.Row(label="arm", dots=[0.1, 0.2])
    first, again = (figures.forest([panel(row)]) for _ in range(2))
    assert first == again and not re.search(r"nan|inf", first)
