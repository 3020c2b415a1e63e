import json
import pathlib
import runpy

import numpy as np
import pytest
from PIL import Image

from unified_fm.report import charts, report

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run_a"
    folder.mkdir()
    rows = [
        {"step": s, "loss": 1.0 / (s + 1), "telemetry/cosine/layer_00": s - 1.0} for s in (0, 1, 2)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_the_later_line_of_a_step_counts_and_broken_values_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "loss": 9.0}\n{"step": 1, "loss": 3, "note": "x", "ok": true}\n'
        '{"step": 2, "loss": 2.0}\n{"step": 3, "loss": NaN}\n[1]\n{"loss": 1.0}\n{"step": 4, "lo'
    )
    found = charts.read_metrics(path)
    assert list(found) == ["loss"]
    assert found["loss"].steps.tolist() == [1, 2]
    assert found["loss"].values.tolist() == [3.0, 2.0]


def test_a_missing_file_has_no_metrics(tmp_path):
    assert charts.read_metrics(tmp_path / "none.jsonl") == {}


def test_thinning_keeps_the_mean():
    series = charts.Series(np.arange(1001), np.arange(1001.0))
    thin = charts._thinned(series)
    assert len(thin.steps) == 334
    assert thin.values[:2].tolist() == [1.0, 4.0]  # means of 0 1 2 and 3 4 5
    assert thin.values[-1] == 999.5  # of 999 and 1000


def test_smoothing_is_a_windowed_mean():
    values = np.arange(80.0) ** 2
    smooth = charts._smoothed(values)
    assert smooth[40] == pytest.approx(values[38:43].mean())
    assert smooth[0] == pytest.approx(values[:3].mean())
    assert smooth[-1] == pytest.approx(values[-3:].mean())


def test_blocks_are_in_natural_order():
    names = ["text/layer_10", "text/layer_2", "image/layer_1"]
    assert sorted(names, key=charts._natural) == ["image/layer_1", "text/layer_2", "text/layer_10"]


def test_inline_svg_takes_the_colour_of_the_text(run):
    series = charts.read_metrics(run / "metrics.jsonl")
    svg = charts.to_svg(charts.curves({"a $ b": {"loss": series["loss"]}}))
    assert svg.startswith("<svg") and "currentColor" in svg and charts.TEXT not in svg
    assert "a $ b" in svg


def plot(arguments):
    return runpy.run_path(str(ROOT / "tools" / "plot.py"))["main"](arguments)


@pytest.mark.parametrize("more", [[], ["--names=lo.*"], ["--heat=telemetry/cosine"]])
def test_plot_writes_a_picture(run, tmp_path, more):
    out = tmp_path / "plots" / "a.png"
    assert plot([str(run), f"--out={out}", *more]) == 0
    assert len(np.unique(np.asarray(Image.open(out)))) > 5  # something is drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--names=los"], "did you mean 'loss'"), (["--out=a.gif"], "possible: .png, .svg")],
)
def test_plot_refuses_by_name(run, capsys, arguments, message):
    with pytest.raises(SystemExit):
        plot([str(run), *arguments])
    assert message in capsys.readouterr().err


def test_runs_are_named_by_folder_unless_two_are_equal(tmp_path):
    labels = runpy.run_path(str(ROOT / "tools" / "plot.py"))["labels"]
    a, b, c = (tmp_path / x / "metrics.jsonl" for x in ("one/run", "two/run", "two/other"))
    assert labels([a, c]) == ["run", "other"]
    assert labels([a, b]) == [str(a), str(b)]


def test_D6_metrics_that_are_not_utf8_or_hold_half_characters_do_not_break_the_report(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n'
    strange = [b'"caf\xe9"', b'"\\ud800"', b'"\\u0000"', b'"a\\nb"', b'"$x^"', b'"<b>"']
    lines = [b'{"step": %d, %s: 1.5}\n' % (step, name) for name in strange for step in (1, 2)]
    damaged = [
        b"\xff\xfe\x00\n",
        b'{"step": 3, "loss": 1' + b"0" * 400 + b"}\n",
        b'{"step": ' + b"9" * 30 + b', "loss": 1.0}\n',
        b'{"step": ' + b"9" * 9000 + b', "loss": 1.0}\n',
        b'{"step": true, "loss": 1.0}\n{"step": -1, "loss": 1.0}\n{"step": 4, "loss": 1e999}\n',
        b"[" * 100_000 + b"\n",
        b"\x00" * 1000 + b"\n",
        b"\xed\xa0\x80\n",
    ]
    path.write_bytes(good + b"".join(lines) + b"".join(damaged) + b'{"step": 5, "loss": 0.5}\n\xff')
    found = charts.read_metrics(path)
    assert found["loss"].steps.tolist() == [1, 2, 5]
    assert found["caf\ufffd"].values.tolist() == [1.5, 1.5] and "?" in found
    out = tmp_path / "report.html"
    streams = {"text": {"source": "half \ud800", "objectives": {"mlm": 1.0}}}
    report.write_report(out, config={"streams": streams}, metrics_path=path, title="\ud800")
    page = out.read_text(encoding="utf-8")
    assert "caf\ufffd" in page and "half ?" in page and "&lt;b&gt;" in page
