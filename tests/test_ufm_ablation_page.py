"""What the page of the UFM ablation says: by rule, from the numbers, and no more than they show."""

import json
import shutil

import numpy as np
import pytest
import scipy.stats

from experiments.ufm_ablation import arms, conclusions, outcome, statistics
from experiments.ufm_ablation.run import Experiment
from experiments.ufm_ablation.sizes import Sizes

PUBLISHED = outcome.HERE / "results"


@pytest.fixture(scope="module")
def published():
    return json.loads((PUBLISHED / "results.json").read_text(encoding="utf-8"))


def scores_of(separate, joint, full, spread=(0.0, 0.001, -0.001)):
    """Scores of the arms that `claim` reads, for the metric text_loss."""
    levels = {"bert_only": separate, "joint": joint, "joint_kd_igm": full}
    # Not the same noise for all, so that paired differences have an error.
    return {
        name: {"text_loss": [level + (1 + i) * e for e in spread]}
        for i, (name, level) in enumerate(levels.items())
    }


def test_A2_the_claim_is_judged_by_the_share_that_is_repaired():
    def claim(*levels, biased=(), **options):
        return conclusions.claim("text_loss", scores_of(*levels, **options), biased)

    # A difference that remains can be measured, and yet the arm has come close.
    assert "**the claim holds**: `joint_kd_igm` repairs 90 % [" in claim(5.0, 5.1, 5.01)
    assert "; a difference remains, +0.0100 [" in claim(5.0, 5.1, 5.01)
    assert "**the claim holds**" in claim(5.0, 5.1, 5.0)
    assert "no difference remains that 3 seeds can show" in claim(5.0, 5.1, 5.0)
    assert "it is better than separate training" in claim(5.0, 5.1, 4.9)
    assert "**undecided**: `joint_kd_igm` repairs 50 % [" in claim(5.0, 5.1, 5.05)
    assert "**the claim fails**: `joint_kd_igm` repairs 20 % [" in claim(5.0, 5.1, 5.08)
    assert "**the claim fails**: `joint_kd_igm` repairs -100 % [" in claim(5.0, 5.1, 5.2)
    assert "nothing to repair" in claim(5.1, 5.0, 5.0)
    assert "nothing to repair" in claim(5.0, 5.1, 5.0, spread=[0.0, 1.0, -1.0])
    assert "**not judged**: the teacher was a biased target" in claim(
        5.0, 5.1, 5.2, biased=["text"]
    )
    assert "**the claim fails**" in claim(5.0, 5.1, 5.2, biased=["image"])


def test_A2_a_share_has_the_interval_of_fieller():
    """It holds exactly those ratios that a paired t test does not refuse."""
    part, whole = np.array([0.04, 0.05, 0.03, 0.06]), np.array([0.1, 0.12, 0.09, 0.08])
    found = statistics.share(part, whole)
    assert found.mean == pytest.approx(part.mean() / whole.mean())
    for ratio in (found.low, found.high):
        assert scipy.stats.ttest_rel(part, ratio * whole).pvalue == pytest.approx(0.05, abs=1e-6)
    assert found.low < found.mean < found.high
    assert statistics.share(part, np.array([0.1, -0.1, 0.1, -0.1])) is None


def test_A2_holm_stops_at_the_first_that_does_not_reject():
    # Of four: 0.05 / 4 = 0.0125, 0.05 / 3 = 0.0167, then 0.03 > 0.05 / 2 ends it.
    assert statistics.holm([0.03, 0.01, 0.04, 0.015]) == [False, True, False, True]
    assert statistics.holm([0.013, 0.013, 0.013, 0.013]) == [False] * 4


def test_A2_the_published_page_is_what_the_rule_writes(published, tmp_path):
    for name, text in outcome.texts(published).items():
        assert (PUBLISHED / name).read_text(encoding="utf-8") == text, name
    shutil.copytree(PUBLISHED, tmp_path / "results")
    shutil.copy(outcome.HERE / "README.md", tmp_path)
    outcome.rewrite(tmp_path)
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert written == (outcome.HERE / "README.md").read_text(encoding="utf-8")


def test_A2_comparisons_are_counted_as_they_are_written(published):
    text = outcome.texts(published)["conclusions.md"]
    questions = text.split("## How much of what")[0]
    assert "Of 42 comparisons" in text and "15 do, and 9 also survive Holm's" in text
    sentences = [line for line in questions.splitlines() if line.startswith("- ")]
    assert len(sentences) == 42
    assert sum("(Holm)" in line for line in sentences) == 9


def test_A2_version_1_is_not_read_as_a_verdict_on_distillation(published):
    assert outcome.biased(published) == ("text",)
    assert outcome.biased({**published, "rest": arms.REST}) == ()
    text = outcome.texts(published)["conclusions.md"]
    assert "masked-word cross-entropy: **not judged**" in text
    assert "the claim fails" not in text
    for line in text.splitlines():
        if "joint_kd" in line and line.startswith(("- masked-word", "- sentiment")):
            assert "the teacher was a biased target" in line
    assert "was biased" in outcome.texts(published)["table.md"]
    assert "was biased" not in outcome.texts({**published, "rest": arms.REST})["table.md"]
    page = (outcome.HERE / "README.md").read_text(encoding="utf-8")
    assert "to be superseded" in page and "48 comparisons" not in page


def test_A2_arms_of_the_earlier_target_are_made_again(tmp_path):
    """A folder that has them refuses to go on: its settings do not name the lump."""
    experiment = Experiment(tmp_path, Sizes())
    assert experiment._settings("joint_kd")["rest"] == experiment._settings("joint_kd_igm")["rest"]
    assert "rest" not in experiment._settings("joint") | experiment._settings("bert")
