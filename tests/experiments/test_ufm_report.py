"""The UFM ablation: what is concluded from numbers, and its page, say no more than the rules."""

import json
import re

import pytest

from experiments import bigram
from experiments.ufm_ablation import conclusions, outcome, plots, report, sentences
from tests.experiments.ufm_results import results

LOST = {"bert_only": 5.0, "joint": 5.1}
GAINED = {"vit_only": 0.9, "joint": 0.7, "joint_kd_igm": 0.7}


GATE = {
    **{"width": 24, "layers": 2, "steps": 1500, "static_ratio": 8},
    "rates": {"vit": 0.006, "bert": 0.003, "joint": 0.0015},
}


def judged(full, images=GAINED, **options):
    scores = conclusions.Scores(results(LOST | {"joint_kd_igm": full}, images, **options))
    return conclusions.decision(scores, "text")


def test_A2_the_claim_is_judged_by_the_share_that_is_repaired():
    # A difference that remains can be measured, and yet the arm has come close.
    assert judged(5.01) == "confirmed"
    assert judged(4.9) == "confirmed"
    assert judged(5.05) == "undecided"
    assert judged(5.08) == judged(5.2) == "refuted"
    # Close on text, but images pay: more than 0.05 nats where they have lost nothing.
    assert judged(5.01, GAINED | {"joint_kd_igm": 0.74}) == "confirmed"
    assert judged(5.01, GAINED | {"joint_kd_igm": 0.76}) == "undecided"
    # ... or a fifth of what they have lost.
    lost = {"vit_only": 0.5, "joint": 0.7, "joint_kd_igm": 0.72}
    assert judged(5.01, lost) == "confirmed"
    assert judged(5.01, lost | {"joint_kd_igm": 0.75}) == "undecided"


def test_nothing_is_repaired_where_joint_training_is_not_shown_to_lose():
    assert judged(5.0, noise=1.0) == "nothing to repair"
    scores = conclusions.Scores(results({"bert_only": 5.1, "joint": 5.0, "joint_kd_igm": 5.0}))
    assert conclusions.decision(scores, "text") == "nothing to repair"


@pytest.mark.parametrize(
    ("igm", "random", "static", "found"),
    [
        (5.02, 5.05, 5.05, "confirmed"),
        (5.02, 5.02, 5.05, "partition helps, selection does not"),
        (5.02, 5.00, 5.05, "not confirmed"),
        (5.05, 5.09, 5.05, "not confirmed"),
    ],
)
def test_masking_needs_a_gain_over_weights_and_a_choice_that_matters(igm, random, static, found):
    arms_of = {"joint_igm": igm, "joint_igm_random": random, "joint_static": static}
    assert conclusions.masking(conclusions.Scores(results(LOST | arms_of))) == found


def test_A2_contrasts_are_paired_marked_and_in_the_direction_of_the_claim():
    kd = {"joint_kd": 5.03, "bert_kd": 4.99, "joint_kd_igm": 5.2}
    rows = report.contrasts(conclusions.Scores(results(LOST | kd)))
    cells = {row.split(" | ")[0].strip("| "): row for row in rows[2:]}
    assert list(cells) == list(conclusions.CONTRASTS)
    assert "+0.09" in cells["H1a"] and "(Holm)" in cells["H1a"]
    assert "+0.1" in cells["H2"] and "(Holm)" not in cells["H2"]  # against the claim
    assert "-0.05" in cells["H4"] and "(Holm)" in cells["H4"]  # (5.03 - 5.1) - (4.99 - 5)
    assert all("not run" in cells[name] for name in ("H1b", "H5", "H6"))


def test_A2_no_decision_before_all_seeds_are_there():
    found = results(LOST | {"joint_kd_igm": 5.01}, GAINED, n=3)
    text = report.write(found)
    assert "**interim, n = 3, no decision.**" in text and "## Decision" not in text
    found = results(LOST | {"joint_kd_igm": 5.01}, GAINED)
    assert "- text: **confirmed**: R of" in report.write(found)
    assert "- image: **nothing to repair**." in report.write(found)
    assert "shows nothing" in report.write(found, shows_nothing=True)
    assert "## Decision" not in report.write(found, shows_nothing=True)
    found["arms"]["joint_kd_igm"]["void"] = True
    text = report.write(found)
    assert "`joint_kd_igm` is void" in text
    assert "- text: **cannot be said: joint_kd_igm is void**." in text


def spread(full, by=0.08, n=8):
    """`joint_kd_igm` lies by turns above and below a loss; the deficit is 0.1."""
    found = results(LOST | {"joint_kd_igm": full}, n=n)
    for seed, entry in found["arms"]["joint_kd_igm"]["seeds"].items():
        entry["scores"]["words/cross_entropy"] += by * (-1) ** int(seed)
    return found


@pytest.mark.parametrize(
    ("full", "by", "n", "expected"),
    [
        # An interval of about +-0.086: a repair of 0.03 may be 0, and may be half the deficit.
        (5.07, 0.08, 8, (["H2"], "extended")),
        (5.3, 0.08, 8, ([], "final")),  # neither
        (5.07, 0.0, 8, ([], "final")),  # not 0
        (5.099, 0.02, 8, ([], "final")),  # not half
        (5.07, 0.08, 16, (["H2"], "final")),  # there is one second look
        (5.07, 0.08, 12, (["H2"], "extended")),  # which is all that it needs
        (5.07, 0.08, 7, (["H2"], "interim")),
    ],
)
def test_a_second_look_is_for_what_may_be_nothing_and_may_be_half(full, by, n, expected):
    scores = conclusions.Scores(spread(full, by, n))
    assert (conclusions.open_contrasts(scores), conclusions.look(scores)) == expected


def test_a_second_look_that_was_not_asked_for_decides_nothing():
    found = spread(5.07, 0.0, 16)
    for seed in map(str, range(8, 16)):
        found["arms"]["joint_kd_igm"]["seeds"][seed]["scores"]["words/cross_entropy"] = 9.9
    scores = conclusions.counted(found)
    assert scores.seeds == 8 and conclusions.look(scores) == "final"
    assert scores.of_contrast("H2").max() < 0


def test_a_look_is_at_the_first_seeds_of_all_arms_alike():
    found = results(LOST | {"joint_kd_igm": 5.01}, n=16)
    entries = found["arms"]["scratch"]["seeds"]
    for seed in range(8, 16):
        del entries[str(seed)]
    scores = conclusions.Scores(found)
    assert scores.seeds == 8 and len(scores.of_contrast("H1a")) == 8
    del entries["3"], found["arms"]["vit_half"]
    assert conclusions.Scores(found).seeds == 0  # an arm of the plan is not there
    text = report.write(found)
    assert "**interim, n = 0, no decision.** Arms that have not been run yet: vit_half." in text


def test_an_interim_page_marks_and_concludes_nothing():
    found = results(LOST | {"joint_kd_igm": 5.01, "joint_igm": 5.0, "joint_igm_random": 5.0}, n=7)
    text = report.write(found).split("## The rules", 1)[0]
    for word in ("(Holm)", "equivalent", "repairs", "loses", "not shown"):
        assert word not in text, word
    assert re.search(r"H1a \| text \| \+ joint - bert_only \| above 0 \| \+0\.(09|10)", text)
    assert "(Holm)" not in plots.forest(conclusions.Scores(found), final=False)


@pytest.mark.parametrize("arm", ["bert_only", "joint"])
def test_a_void_arm_is_no_loss_that_is_not_there(arm):
    found = results(LOST | {"joint_kd_igm": 5.01}, GAINED)
    found["arms"][arm]["void"] = True
    text = report.write(found)
    assert f"- text: **cannot be said: {arm} is void**." in text
    assert f"- text: cannot be said: {arm} is void" in text
    assert "nothing to repair**" not in text or arm == "bert_only"  # images have both of theirs


def test_before_the_second_look_nothing_is_decided():
    text = report.write(spread(5.07))
    assert "**n = 8, no decision at this look**: that is so of H2. Seeds 8 to 15 follow." in text
    assert sentences.QUOTES["look"] in text and "## Decision" not in text


def test_a_stream_that_passes_nowhere_is_not_testable():
    gate = GATE | {
        **{"passes": {"text": True, "image": False}, "optimisation_limited": True, "bigram": 4.85},
        "probes": {
            "topics/accuracy": {"gains": [0.1, 0.12, 0.11], "counts": True},
            "digits/accuracy": {"gains": [0.1, -0.12, 0.11], "counts": False},
        },
        "candidates": [
            GATE
            | {"bert_only": 4.9, "fall": 0.012, "passes": {"text": True, "image": False}}
            | {"deficits": {"text": [0.1, 0.11, 0.1], "image": [-0.2, 0.0, -0.1]}}
        ],
        "of": 9,
    }
    text = report.write(results(LOST | {"joint_kd_igm": 5.01}, GAINED), gate=gate)
    assert "- image: **not testable here**." in text and "- text: **confirmed**: R of" in text
    assert "**optimisation-limited**" in text.splitlines()[2]
    assert "| 24, 2, 1500 | 0.006, 0.003, 0.0015 | 4.900 | +0.012 | +0.100, +0.110, +0.100 " in text
    assert "digits/accuracy (†)" in text and "topics/accuracy (†)" not in text
    assert "- Nothing about what sharing costs image: it did not pass the gate." in text
    assert "tried: 1 of 9; the 8 others, which cost more, were not. Passing at any of them: text."


def test_every_sentence_stands_below_its_rule():
    """The rules are those of the README, word for word, and the page has them whole."""
    text = report.write(results(LOST | {"joint_kd_igm": 5.01}, GAINED))
    rules = " ".join(report.rules().split())
    for name, quote in sentences.QUOTES.items():
        assert quote in rules, name
    assert report.rules() in text
    for name, sentence in (("decision", "- text: **"), ("masking", "- Gradient masking: **")):
        assert text.index(f"> {sentences.QUOTES[name]}") < text.index(sentence)


def test_a_decision_stands_beside_the_numbers_that_it_looks_at():
    said = list(sentences.decisions(conclusions.Scores(results(
        LOST | {"joint_kd_igm": 5.02, "joint_kd": 5.0, "bert_kd": 4.7},
        GAINED | {"joint_kd_igm": 0.8}, noise=1e-6,
    ))))  # fmt: skip
    assert (
        "- text: **undecided**: R of `joint_kd_igm` is 80 % [+80, +80], and on the image stream it "
        "loses +0.1000 [+0.1000, +0.1000] nats against `joint`, where more than 0.050 has to be "
        "excluded."
    ) in said
    assert (
        "- H4: **the other way round**: a teacher changes the loss of `joint` by -0.1000 [-0.1000, "
        "-0.1000], of `bert_only` by -0.3000 [-0.3000, -0.3000]."
    ) in said


@pytest.mark.parametrize(
    ("bert_kd", "noise", "said"),
    [(5.0, 1e-6, "KD repairs sharing"), (4.917, 1e-2, "not shown"), (None, 0, "cannot be said")],
)
def test_whether_a_teacher_repairs_sharing_or_merely_teaches(bert_kd, noise, said):
    found = results(LOST | {"joint_kd": 5.0, "bert_kd": bert_kd or 5.0}, noise=noise)
    if bert_kd is None:
        found["arms"]["bert_kd"]["seeds"] = {}
    assert said in sentences._taught(conclusions.Scores(found))


def test_what_an_arm_repairs_stands_beside_what_the_other_stream_pays():
    scores = conclusions.Scores(results(
        LOST | {"joint_per_task_adam": 5.05}, GAINED | {"joint_per_task_adam": 0.9}, noise=1e-6
    ))  # fmt: skip
    assert (
        "text: `joint_per_task_adam` repairs 50 % [+50, +50]; on the image stream +0.2000 [+0.2000,"
        " +0.2000] nats to `joint`"
    ) in list(sentences.repairs(scores, "text"))


def test_the_floors_stand_beside_the_losses_and_the_teachers_say_how_sure_they_are():
    found = results(LOST)
    found["floors"][bigram.KEY] = 4.8512
    found["teachers"] = {
        "bert 1000": {
            "words/cross_entropy": 5.2,
            "words_tempered/cross_entropy": 5.19,
            "words_tempered/temperature": 1.08,
        }
    }
    lines = report.write(found).splitlines()
    (unigram,) = (line for line in lines if "unigram" in line and line.startswith("|"))
    (counted,) = (line for line in lines if line.startswith("| *bigram"))
    assert unigram.count("6.1000") == counted.count("4.8512") == 2
    assert "| bert 1000 | 5.2000 | 5.1900 | 1.0800 |" in lines


def test_the_page_says_how_it_was_made_and_its_files_are_there(tmp_path):
    found = results(LOST, GAINED)
    text = report.publish(tmp_path, found, command="run --extend")
    assert (tmp_path / "report.md").read_text() == text
    for name in re.findall(r"\]\(([^)/]+\.svg)\)", text):
        assert (tmp_path / name).read_text().startswith("<svg")
    assert "- Command: `run --extend`" in text and "- Commit: 0123456789ab" in text
    assert "- 1500 steps; seeds 0, 1, 2, 3, 4, 5, 6, 7; those of the teachers: none" in text
    assert "64 minutes" in text  # 16 arms, 8 seeds, half a minute each


def test_a_plot_is_in_shares_where_joint_loses_and_in_nats_where_it_does_not():
    arms_of = {"joint_igm": 5.06, "joint_igm_random": 5.05, "joint_kd_igm": 5.02}
    svg = plots.forest(conclusions.Scores(results(LOST | arms_of, GAINED)))
    assert "image: joint is not shown to lose against vit_only" in svg
    assert re.search(r"text: joint loses 0\.\d+ nats against bert_only", svg)
    assert re.search(r">0\.(79|80|81) \[[^<]*\(Holm\)<", svg)
    assert svg.count("<rect") == 2  # of the two arms that H5 compares


def test_the_runs_take_size_rates_and_weights_from_the_gate(tmp_path):
    path = tmp_path / "gate.json"
    assert outcome.read(path) is None
    path.write_text('{"width": 24, "rates": {"vit": 0.006}}')
    with pytest.raises(ValueError, match=r"lacks layers, .*_ratio, rates\.bert, rates\.joint"):
        outcome.read(path)
    assert outcome.changes(24, 2, 1500) == [
        *("model.encoder.width=24", "model.encoder.layers=2", "model.encoder.mlp_width=96"),
        "total_steps=1500",
    ]


def test_what_is_committed_says_what_its_numbers_say():
    """The page and docs/claims.md are those of results.json; by hand nobody has changed any."""
    here = report.README.parent
    found, gate = json.loads((here / "results.json").read_text()), outcome.read()
    page = (here / "report.md").read_text()
    command = re.search("- Command: `(.*)`", page)
    assert command and report.write(found, gate=gate, command=command[1]) == page
    claims = (here.parents[1] / "docs/claims.md").read_text()
    for sentence in sentences.outcomes(conclusions.counted(found, gate)).values():
        assert f" {sentence} |" in claims
