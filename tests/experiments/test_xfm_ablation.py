"""The X-FM ablation: every sentence follows from its rule, and none is said too early."""

import json
import pathlib

import numpy as np
import pytest

from experiments import feature_sd
from experiments.xfm_ablation import conclusions, gate, plots, report, run
from experiments.xfm_ablation.arms import COUNTED
from experiments.xfm_ablation.endpoints import Endpoints

HERE = pathlib.Path(run.__file__).parent


def test_features_that_are_equal_have_no_spread():
    assert feature_sd.spread(np.ones((5, 3))) == 0
    directions = np.random.default_rng(0).standard_normal((4000, 16))
    assert feature_sd.spread(directions) == pytest.approx(1, abs=0.01)
    # The length of a feature says nothing.
    scaled = directions * np.arange(1, 4001)[:, None]
    assert feature_sd.spread(scaled) == pytest.approx(feature_sd.spread(directions))


# {endpoint: its metrics}: with these every metric of an endpoint has the same value.
METRICS = {
    "words": ["words/cross_entropy"],
    "vision": ["digits/accuracy", "objects/accuracy", "emoji/accuracy"],
    "imlm": ["imlm/object_word/accuracy"],
    "itm": ["itm/random_caption/ranking", "itm/swapped_object/ranking"],
    "r1": ["retrieval/image_to_text/r1", "retrieval/text_to_image/r1"],
    "iou": ["grounding/mean_iou"],
}
BASE = {"words": 5.6, "vision": 0.5, "imlm": 0.6, "itm": 0.9, "r1": 0.4, "iou": 0.6}


def results(n=8, noise=0.001, **changes):
    """What results.json holds if each counted arm has the levels of BASE, but for `changes`.

    Every arm but `full` has `noise` more with even seeds and less with odd ones: of 8 seeds the
    95 % interval of a difference is its mean +- .894 times the noise.
    """
    asked = {"text_only": ["words"], "image_only": ["vision"]}
    found = {}
    for arm in {**dict.fromkeys(COUNTED), **changes}:
        level = BASE | changes.get(arm, {})
        seeds = {}
        for seed in range(n):
            moved = 0 if arm == "full" else noise * (-1) ** seed
            kept = asked.get(arm, level)
            scores = {metric: level[name] + moved for name in kept for metric in METRICS[name]}
            seeds[str(seed)] = {"scores": scores}
        found[arm] = {"changes": {}, "void": False, "seeds": seeds}
    return {"settings": {"total_steps": 1500}, "floors": {}, "arms": found}


def said(**options):
    return conclusions.verdicts(conclusions.primary(Endpoints(results(**options))))


def words(full, no_stop, text_only=5.5):
    levels = dict(full=full, no_stop=no_stop, text_only=text_only)
    return {arm: {"words": level} for arm, level in levels.items()}


def test_A1_has_a_margin_that_follows_the_gap():
    def of(**levels):
        return conclusions.margin(Endpoints(results(noise=0, **words(5.5, **levels))))

    assert of(no_stop=6.0) == pytest.approx(0.1)  # a fifth of a gap of half a nat
    assert of(no_stop=5.61) == pytest.approx(0.022)
    assert of(no_stop=5.59) == of(no_stop=5.4) == 0.02
    only_text = {"arms": {"text_only": results()["arms"]["text_only"]}}
    assert conclusions.margin(Endpoints(only_text)) == 0.02


@pytest.mark.parametrize(
    ("full", "no_stop", "noise", "a1", "a2", "a"),
    [
        (5.52, 5.8, 0.001, "as good as", "helps the words", "confirmed here"),
        (5.52, 5.6, 0.02, "not shown either way", "helps the words", "undecided"),
        (5.51, 5.51, 0.001, "as good as", "not shown", "undecided: language is kept, but not"),
        (
            5.6,
            5.8,
            0.001,
            "against the claim: with the stop the words are worse",
            "helps",
            "refuted",
        ),
        (
            5.51,
            5.5,
            0.001,
            "as good as",
            "against the claim: stopping the gradients harms",
            "undecided",
        ),
        (5.55, 5.55, 0.2, "not shown", "not shown", "undecided"),
    ],
)
def test_language_is_judged_by_its_rules(full, no_stop, noise, a1, a2, a):
    found = said(noise=noise, **words(full, no_stop))
    assert a1 in found["A1"] and a2 in found["A2"] and found["(a)"].startswith(a)


def test_A3_asks_for_less_than_half_a_standard_deviation():
    """Of four parts that lie by equal amounts apart; `mim_frozen` is behind by 5 points."""

    def moved(size):
        return {name: BASE[name] + size for name in ("imlm", "itm", "r1", "iou")}

    def gain(size):
        return said(no_stop=moved(size), mim_frozen=moved(-0.05))["A3"]

    assert gain(0.0) == gain(-0.05)
    assert gain(0.0) == "the stop costs vision-language ability less than half a standard deviation"
    assert gain(0.05).startswith("against the claim: the stop costs vision-language ability more")
    # By hand: 0, 0, 1.25 and -5 points have an SD of 2.40, so the cost is .52.
    assert gain(0.0125) == "not shown either way"


def test_the_composite_is_on_the_scale_of_the_counted_arms():
    changes = dict(no_stop={"imlm": 0.7}, mim_ema={name: 0.99 for name in BASE})
    found = Endpoints(results(n=1, noise=0, **changes))
    # Of four runs (full, no_stop, no_mim, mim_frozen) one has 70 points, three have 60.
    assert found.scale["imlm"] == pytest.approx((62.5, 18.75**0.5))
    assert found.scale["iou"] == pytest.approx((60, 0))
    (full,), (other,) = found.of("full", "vl"), found.of("no_stop", "vl")
    assert full == pytest.approx(-2.5 / 18.75**0.5 / 4)
    assert other == pytest.approx(7.5 / 18.75**0.5 / 4)
    assert found.of("text_only", "vl") == found.of("image_only", "vl") == []
    assert found.of("text_only", "words") == [5.6] and found.of("full", "vision") == [50.0]


@pytest.mark.parametrize(
    ("no_mim", "mim_frozen", "noise", "b"),
    [
        (0.46, 0.47, 0.001, "confirmed here"),
        (0.49, 0.46, 0.02, "undecided"),  # 1 +- 1.8 points
        (0.46, 0.5, 0.013, "MIM helps, guidance does not (though a point is not excluded)"),
        (0.46, 0.5, 0.001, "MIM helps, guidance does not (refuted here)"),
        (0.46, 0.495, 0.001, "refuted here: guidance is worth less than a point"),
        (0.495, 0.46, 0.001, "refuted here: MIM is worth less than a point"),
        (0.5, 0.5, 0.05, "undecided"),
    ],
)
def test_guidance_needs_both_and_a_point(no_mim, mim_frozen, noise, b):
    levels = {"no_mim": {"vision": no_mim}, "mim_frozen": {"vision": mim_frozen}}
    assert said(noise=noise, **levels)["(b)"].startswith(b)


def test_C_is_open_unless_the_interval_is_on_one_side():
    def line(level, noise=0.001):
        found = Endpoints(results(noise=noise, image_only={"vision": level}))
        return next(each for each in conclusions.specialists(found) if each.startswith("vision"))

    assert line(0.505).endswith("points; within: yes")
    assert line(0.6).endswith("within: no")
    assert line(0.51, noise=0.02).endswith("within: open")
    every = list(conclusions.specialists(Endpoints(results())))
    assert "iou: `vl_only` was not run" in every


def test_no_decision_before_every_counted_arm_has_all_seeds():
    wanted = gate.Gate(n=8, sd=SD, power=SD, detectable=SD)
    decided = "## Decision"
    found = results(**words(5.52, 5.8))
    text = report.write(found, wanted)
    assert "**n = 8.**" in text and "- 1500 steps; seeds 0, 1, 2, 3, 4, 5, 6, 7" in text
    assert f"> {conclusions.RULES['A2']}\n\nA2: **stopping the gradients helps the words**." in text
    for other in (None, gate.Gate(n=9, sd=SD, power=SD, detectable=SD)):
        assert decided not in report.write(found, other)
    assert decided not in report.write(found, wanted, shows_nothing=True)
    assert "A3 may well fail" in text
    del found["arms"]["no_mim"]["seeds"]["7"]
    text = report.write(found, wanted)
    assert "**interim, n = 7, no decision.**" in text and decided not in text
    found["arms"]["no_mim"]["void"] = True  # it is not waited for
    text = report.write(found, wanted)
    assert "`no_mim` is void" in text and "B1: **not run**." in text
    del found["arms"]["no_mim"]
    assert "n = 0" in report.write(found, wanted)


def test_an_interim_page_marks_and_concludes_nothing():
    wanted = gate.Gate(n=9, sd=SD, power=SD, detectable=SD)
    found = results(**words(5.52, 5.8))
    text = report.write(found, wanted).split(report.HEADING, 1)[0]
    assert "(Holm)" not in text and "within: " not in text
    assert "| A2 | words | full - no_stop | below 0 | -0.28" in text
    assert "(Holm)" not in plots.forest(Endpoints(found), final=False)


def test_the_seeds_that_are_counted_are_the_first_of_all_arms():
    found = results(n=8, **words(5.52, 5.8))
    entries = found["arms"]["full"]["seeds"]
    entries["7"]["scores"]["words/cross_entropy"] = 99.0
    assert Endpoints(found, 7).of("full", "words") == [5.52] * 7
    del entries["2"]
    assert Endpoints(found, 7).complete == 2
    assert len(Endpoints(found, 7).of("no_stop", "words")) == 8  # so far


def test_the_page_says_what_each_teacher_gave():
    found = results(noise=0.01)
    assert "full - mim_frozen is -1.00 points with one of them, +1.00 with" in report.write(found)


def test_arms_of_no_rule_are_shown_beside():
    text = report.write(results(n=3, mim_ema={"words": 5.7}))
    assert "| mim_ema (exploratory) |" in text
    row = next(line for line in text.split("\n") if line.startswith("| mim_ema | "))
    assert row.startswith("| mim_ema | +0.09") or row.startswith("| mim_ema | +0.1")


def test_the_figures_have_three_panels_with_a_dot_for_each_seed():
    found = results(n=3, mim_ema={"words": 5.7}, **words(5.52, 5.8))
    for arm in ("full", "text_only"):
        for entry in found["arms"][arm]["seeds"].values():
            entry["curves"] = {"text/mlm": [6.0, 5.7, 5.6]}
    drawn = plots.forest(Endpoints(found))
    for title in ("Language: masked words", "Vision: mean of three", "Vision and language"):
        assert title in drawn
    # Words: five arms; vision: five; the composite: no_stop, no_mim, mim_frozen, mim_ema.
    assert drawn.count('r="2.6"') + drawn.count(">&lt;<") + drawn.count(">&gt;<") == 3 * 14
    assert "(Holm)" in drawn
    lines = plots.curves(found)
    assert "text: masked words" in lines and "pairs:" not in lines
    assert lines.count("<polyline") == 2


SD = {"words": 0.01, "vision": 0.5}


def test_the_number_of_seeds_has_the_power_that_is_asked_for():
    # Of a paired t test at .05: a difference of 1 SD needs 10 pairs (Cohen's table), of 1.16 SD 8.
    assert gate.power(1, 1, 9) < 0.8 <= gate.power(1, 1, 10)
    assert gate.power(1, 1.16, 8) == pytest.approx(0.8, abs=0.005)
    assert gate.detectable(1, 8, 0.025 / 7) == pytest.approx(1.91, abs=0.005)
    assert [gate.seeds_needed(sd, 1) for sd in (0, 0.5, 1 / 1.16, 1, 3)] == [6, 6, 8, 10, 16]


def test_the_gate_takes_the_noisier_endpoint():
    found = results(n=3)
    for arm, vision in (("full", [0.5, 0.51, 0.52]), ("no_stop", [0.5, 0.5, 0.5])):
        for seed, value in enumerate(vision):
            scores = found["arms"][arm]["seeds"][str(seed)]["scores"]
            scores |= dict.fromkeys(METRICS["vision"], value)
    decided = gate.decide(found)
    assert decided.sd["vision"] == pytest.approx(1)  # of 0, 1 and 2 points
    assert decided.n == 10
    assert decided.power["vision"] == pytest.approx(0.803, abs=0.001)
    assert "| vision | 1.0000 | 1 points | 0.80 |" in "\n".join(gate.table(decided))
    found["arms"]["full"]["void"] = True
    with pytest.raises(ValueError, match=r"found 0; void arms: full"):
        gate.decide(found)


def test_a_gate_of_other_steps_is_refused(tmp_path, capsys):
    path = tmp_path / "gate.json"
    path.write_text(json.dumps({"steps": 3000, "n": 6, "sd": SD, "power": SD, "detectable": SD}))
    command = [f"--workdir={tmp_path / 'run'}", f"--gate={path}"]
    assert run.main(command) == 1
    assert "is of 3000 steps, and 1500 are asked for" in capsys.readouterr().err
    assert run.main(["gate", *command, "--steps=3000"]) == 0
    assert "n = 6, by `full` and `no_stop`" in capsys.readouterr().out


def test_the_page_has_what_the_gate_has_found(tmp_path, capsys):
    assert run.main(["gate", f"--workdir={tmp_path}"]) == 0  # what is committed is not run again
    assert capsys.readouterr().out in (HERE / "README.md").read_text(encoding="utf-8")


def test_the_page_has_the_rules_word_by_word():
    page = " ".join((HERE / "README.md").read_text(encoding="utf-8").replace("\n> ", " ").split())
    spoken = {name: rule for name, rule in conclusions.RULES.items() if name not in ("(a)",)}
    for name, rule in spoken.items():
        text = rule.removesuffix(" on the mean vision probe.") if name == "B1" else rule
        text = text.removeprefix("(b) ").removesuffix(".")
        assert text in page, name


@pytest.mark.nightly
def test_the_short_budget_from_the_data_to_the_report(tmp_path):
    assert run.main(["--budget=short", f"--workdir={tmp_path}", "--jobs=0"]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert set(found["arms"]) == set(COUNTED)
    scores = found["arms"]["mim_frozen"]["seeds"]["2"]["scores"]
    assert {metric for metrics in METRICS.values() for metric in metrics} <= scores.keys()
    assert 0 < scores["spread/feature_sd"] < 2
    assert set(found["teachers"]) == {"image_only 1000"}
    report = (tmp_path / "report.md").read_text()
    assert "shows nothing" in report and "## Decision" not in report
    assert not (tmp_path / "gate").exists()
