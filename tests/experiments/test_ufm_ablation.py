"""The UFM ablation: arms are what they are called, the report says no more than the rules."""

import json
import pathlib
import re

import numpy as np
import pytest

from experiments import grid, objects, seeds
from experiments.ufm_ablation import conclusions, run
from experiments.ufm_ablation.arms import CONFIG, arms
from unified_fm.config import chosen

HERE = pathlib.Path(run.__file__).parent
WORK = grid.Grid(spec=CONFIG, arms=arms(), seeds=[0])


def test_arms_differ_in_streams_and_teachers():
    made = {name: WORK.settings(changes) for name, changes in arms().items()}
    assert list(made["vit_only"].streams) == list(made["vit_kd"].streams) == ["image"]
    assert list(made["bert_only"].streams) == list(made["bert_kd"].streams) == ["text"]
    assert {name: list(s.teachers) for name, s in made.items() if s.teachers} == {
        **{"vit_kd": ["vit"], "bert_kd": ["bert"]},
        **{"joint_kd": ["vit", "bert"], "joint_kd_igm": ["vit", "bert"]},
    }
    for name, settings in made.items():
        short = WORK.settings(arms("short")[name])
        assert settings.total_steps == short.total_steps == (1 if name == "scratch" else 1500)
        taught = {t: s.total_steps for t, s in short.own_runs().items()}
        assert taught == dict.fromkeys(settings.teachers, 20)
        for stream, entry in settings.streams.items():
            weights = [chosen.objective(*item)[1] for item in entry.objectives.items()]
            seen = any(stream in teacher.streams for teacher in settings.teachers.values())
            assert weights == ([1.0, 1.0] if seen else [1.0])


IMAGE, TEXT = [[9.0, 0.0], [0.0, 1.0]], [[-3.0, 2.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("joint", [[6, 2], [1, 1]]),
        # Text keeps the two entries of its largest gradients, images have the others.
        ("joint_igm", [[-3, 2], [0, 1]]),
        # Text keeps the two that images do not move.
        ("joint_igm_ratio", [[9, 2], [1, 1]]),
        ("joint_static", [[0.4 * 9 - 1.6 * 3, 3.2], [1.6, 0.4]]),
    ],
)
def test_the_update_of_an_arm_is_that_of_its_merge(name, expected):
    def tree(kernel):
        return {"encoder": {"layer_00": {"kernel": np.array(kernel)}}}

    merge = chosen.merge(WORK.settings(arms()[name]), 20)
    state, grads = merge.init(tree(IMAGE)), {"image": tree(IMAGE), "text": tree(TEXT)}
    for step in range(20):  # past the masks' warm-up and ramp
        state = merge.refresh(state, step) if merge.refresh else state
        found, state = merge.update(grads, state, tree(IMAGE))
    np.testing.assert_allclose(found["encoder"]["layer_00"]["kernel"], expected, atol=1e-6)


def test_random_masks_are_those_of_the_seed():
    settings = WORK.settings(arms()["joint_igm_random"])
    assert [seeds.of_seed(settings, s).merge["seed"] for s in (0, 5)] == [0, 5]


def test_the_label_of_an_image_is_its_largest_drawing(monkeypatch):
    class Images(list):
        names = ("ant", "bell", "cup")

    regions = [{"box": [0, 0, 9, 9]}, {"box": [3, 3, 10, 9]}]
    made = Images([{"regions": regions, "objects": ["ant", "cup"], "id": 7}])
    opened = []
    monkeypatch.setattr(objects, "open_source", lambda spec: opened.append(spec) or made)
    source = objects.Source("train?size=28")
    assert opened == ["demo:objects/train?size=28"]
    assert (len(source), source[0]["label"], source[0]["id"]) == (1, 2, 7)


def results(text, image=None, *, n=8, noise=0.001):
    """What results.json holds if these arms have these losses, with a little noise of their own."""
    rng = np.random.default_rng(0)
    losses = {"text": text, "image": image or {}}
    entries = {
        arm: {
            "changes": {},
            "void": False,
            "seeds": {
                str(seed): {
                    "scores": {
                        conclusions.LOSSES[stream]: levels[arm] + noise * rng.standard_normal()
                        for stream, levels in losses.items()
                        if arm in levels
                    }
                }
                for seed in range(n)
            },
        }
        for arm in {**text, **losses["image"]}
    }
    return {"floors": {"words/cross_entropy": 6.1}, "arms": entries}


LOST = {"bert_only": 5.0, "joint": 5.1}
GAINED = {"vit_only": 0.9, "joint": 0.7, "joint_kd_igm": 0.7}


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
    rows = conclusions.contrasts(conclusions.Scores(results(LOST | kd)))
    cells = {row.split(" | ")[0].strip("| "): row for row in rows[2:]}
    assert list(cells) == list(conclusions.CONTRASTS)
    assert "+0.09" in cells["H1a"] and "(Holm)" in cells["H1a"]
    assert "+0.1" in cells["H2"] and "(Holm)" not in cells["H2"]  # against the claim
    assert "-0.05" in cells["H4"] and "(Holm)" in cells["H4"]  # (5.03 - 5.1) - (4.99 - 5)
    assert all("not run" in cells[name] for name in ("H1b", "H5", "H6"))


def test_A2_no_decision_before_all_seeds_are_there():
    found = results(LOST | {"joint_kd_igm": 5.01}, GAINED, n=3)
    text = conclusions.write(found)
    assert "**interim, n = 3, no decision.**" in text and "## Decision" not in text
    found = results(LOST | {"joint_kd_igm": 5.01}, GAINED)
    assert "- text: **confirmed**." in conclusions.write(found)
    assert "- image: **nothing to repair**." in conclusions.write(found)
    assert "shows nothing" in conclusions.write(found, shows_nothing=True)
    assert "## Decision" not in conclusions.write(found, shows_nothing=True)
    found["arms"]["joint_kd_igm"]["void"] = True
    text = conclusions.write(found)
    assert "`joint_kd_igm` is void" in text and "- text: **not run**." in text


def test_A2_version_1_is_there_and_says_why_it_is_superseded():
    page = (HERE / "version_1" / "README.md").read_text(encoding="utf-8")
    for why in ("biased target", "one Adam state", '"The claim fails"', "is superseded"):
        assert why in page
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page):
        assert (HERE / "version_1" / link).exists(), link
    numbers = json.loads((HERE / "version_1" / "results.json").read_text(encoding="utf-8"))
    assert len(numbers["arms"]) == 12 and numbers["seeds"] == 5
    for arm, entry in numbers["summary"].items():
        if "text_loss" in entry:
            assert f"| {arm} |" in page and f"{entry['text_loss']['mean']:.4f}" in page


def test_a_command_that_cannot_work_is_refused(tmp_path, capsys):
    command = [f"--workdir={tmp_path}", "--change=model.encoder.widht=24"]
    assert run.main(command) == 1
    assert "widht" in capsys.readouterr().err


@pytest.mark.nightly
def test_an_arm_with_teachers_from_the_data_to_the_report(tmp_path):
    arms_of = ["--arms", "joint_kd_igm", "--seeds", "0"]
    assert run.main(["--budget=short", f"--workdir={tmp_path}", *arms_of]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    scores = found["arms"]["joint_kd_igm"]["seeds"]["0"]["scores"]
    assert {*conclusions.LOSSES.values(), *conclusions.PROBES} <= scores.keys()
    assert set(found["teachers"]) == {"vit 1000", "bert 1000"}
    assert f"{scores['words/cross_entropy']:.4f}" in (tmp_path / "report.md").read_text()
    assert str(pathlib.Path.cwd()) not in (tmp_path / "results.json").read_text()
