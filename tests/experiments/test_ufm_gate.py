"""The gate of the UFM ablation: what it chooses follows from its rules."""

import pytest

from experiments.ufm_ablation import gate
from experiments.ufm_ablation.conclusions import LOSSES

SMALL, MIDDLE, LARGE = (gate.Candidate(24, 2, steps) for steps in (1500, 4500, 9000))


def results(curve=(1.0,) * 50, **losses):
    """A results.json of three seeds; `losses` are {arm: {stream: mean}}, or all three values."""
    arms = {}
    for arm, of in losses.items():
        seeds = {}
        for i, seed in enumerate(gate.SEEDS):
            scores = {
                LOSSES[stream]: value[i] if isinstance(value, list) else value + 0.001 * i
                for stream, value in of.items()
            }
            seeds[str(seed)] = {"scores": scores, "curves": {"image/classify": curve}}
        arms[arm] = {"seeds": seeds}
    return {"arms": arms}


def at_rate(vit, bert, joint_image, joint_text, curve=(1.0,) * 50):
    joint = {"image": joint_image, "text": joint_text}
    return results(curve, vit_only={"image": vit}, bert_only={"text": bert}, joint=joint)


BY_RATE = {
    0.0015: at_rate(0.9, 5.8, [1.0, 1.1, 1.2], [5.9, 5.95, 6.0]),
    0.003: at_rate(0.8, 5.7, [1.0, 1.01, 1.0], [5.8, 5.81, 5.8]),
    0.006: at_rate(0.95, 5.6, [0.95, 1.2, 1.3], [5.85, 5.81, 5.8]),
}


def test_the_cheapest_come_first():
    costs = [c.cost for c in gate.CANDIDATES]
    assert costs == sorted(costs)
    assert len(costs) == 9
    assert gate.CANDIDATES[0] == SMALL
    assert SMALL.changes == [
        "model.encoder.width=24",
        "model.encoder.layers=2",
        "model.encoder.mlp_width=96",
        "total_steps=1500",
    ]


def test_each_kind_of_arm_has_the_rate_of_its_smallest_loss():
    assert gate.best_rates(BY_RATE) == {"vit": 0.003, "bert": 0.006, "joint": 0.003}


def test_a_deficit_is_between_each_at_its_own_rate():
    found = gate.deficits(BY_RATE, gate.best_rates(BY_RATE))
    assert found["image"] == pytest.approx([1.0 - 0.8, 1.01 - 0.801, 1.0 - 0.802])
    assert found["text"] == pytest.approx([5.8 - 5.6, 5.81 - 5.601, 5.8 - 5.602])


@pytest.mark.parametrize(
    ("last", "passes"),
    [(0.95, False), (0.99, True)],  # the fifth part from 0.99 or so to its end
)
def test_images_pass_when_they_have_come_to_their_end(last, passes):
    curve = [2.0] * 38 + [1.0] * 2 + [last] * 10
    by_rate = {0.003: at_rate(0.8, 5.7, [1.0, 1.01, 1.0], [5.7, 5.71, 5.7], curve)}
    found = gate.judged(SMALL, by_rate, bigram=4.85)
    assert found["fall"] == pytest.approx(1.0 - last)
    assert found["passes"] == {"image": passes, "text": False}  # no deficit of words
    assert found["optimisation_limited"]
    assert not gate.judged(SMALL, by_rate, bigram=5.75)["optimisation_limited"]


def test_a_deficit_below_three_deviations_does_not_pass():
    by_rate = {0.003: at_rate(0.8, 5.7, [0.82, 0.85, 0.88], [5.8, 5.81, 5.8])}
    assert gate.judged(SMALL, by_rate, 4.85)["passes"] == {"image": False, "text": True}


def test_a_gain_of_joint_training_is_no_deficit():
    by_rate = {0.003: at_rate(0.8, 5.7, [0.7, 0.7, 0.7], [5.6, 5.6, 5.6])}
    assert gate.judged(SMALL, by_rate, 4.85)["passes"] == {"image": False, "text": False}


def test_the_cheapest_of_those_that_most_streams_pass_is_chosen():
    none, text, both = ({"passes": dict(image=i, text=t)} for i, t in ((0, 0), (0, 1), (1, 1)))
    assert gate.chosen([none, text, dict(text), both]) is both
    assert gate.chosen([none, text, dict(text)]) is text
    assert gate.chosen([none, dict(none)]) is none
    assert gate.complete([none, both])
    assert not gate.complete([none, text])


@pytest.mark.parametrize(
    ("passes", "image", "chosen"),
    [
        # One stream passes: the least loss there, of those that cost images less than .05 nats.
        ({"text": True, "image": False}, 1.06, 4),
        ({"text": True, "image": False}, 1.5, 8),
        ({"text": True, "image": False}, 0.5, 8),  # all cost more
        ({"text": False, "image": True}, 1.5, 2),
        # Both, or neither: the smallest sum.
        ({"text": True, "image": True}, 1.5, 4),
        ({"text": False, "image": False}, 1.5, 4),
    ],
)
def test_static_weights_are_chosen_where_joint_training_loses(passes, image, chosen):
    by_ratio = {
        ratio: results(joint_static={"image": image, "text": text})
        for ratio, image, text in ((2, 1.0, 5.8), (4, 1.1, 5.6), (8, 1.3, 5.55))
    }
    joint = results(joint={"image": image, "text": 5.8})
    assert gate.best_ratio(by_ratio, joint, passes) == chosen


def test_a_probe_counts_when_training_helps_it_by_three_deviations():
    def arm(**metrics):
        seeds = enumerate(gate.SEEDS)
        return {
            "seeds": {str(s): {"scores": {m: v[i] for m, v in metrics.items()}} for i, s in seeds}
        }

    digits, objects, topics = "digits/accuracy", "objects/accuracy", "topics/accuracy"
    low = {digits: [0.1, 0.1, 0.1], objects: [0.2, 0.2, 0.2], topics: [0.3, 0.3, 0.3]}
    image = {digits: [0.3, 0.31, 0.32], objects: [0.2, 0.3, 0.4]}
    found = {
        "arms": {
            name: arm(**of)
            for name, of in (
                ("scratch", low),
                ("vit_only", image),
                ("bert_only", {topics: [0.2, 0.2, 0.2]}),
            )
        }
    }
    said = gate.probes(found)
    assert {metric: entry["counts"] for metric, entry in said.items()} == {
        digits: True,
        objects: False,
        topics: False,
    }
    assert said[digits]["gains"] == pytest.approx([0.2, 0.21, 0.22])
