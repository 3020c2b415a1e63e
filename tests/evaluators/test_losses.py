import pytest

from tests.evaluators import worlds
from unified_fm.evaluators import losses


def values(tokenizer, **options):
    stream = {
        "pipeline": "image_text",
        "source": "tests.evaluators.worlds:eight",
        "batch_size": 4,
        "objectives": {"colour": {"name": "tests.evaluators.worlds", "weight": 7.0, **options}},
        "num_masked": 0,
        "augment": "none",
        **worlds.OPTIONS,
    }
    evaluator = losses.Evaluator(streams={"pairs": stream}, batches=2, tokenizer=tokenizer)
    apply = worlds.Apply(worlds.Oracle(tokenizer))
    metrics = list(evaluator.run(apply, {}))
    assert apply.compiled == 1
    assert all(m.better == "lower" for m in metrics)
    return {m.name: m.value for m in metrics}


def test_batches_are_joined_by_their_denominators():
    tokenizer = worlds.make_tokenizer()
    # Two batches of four are all eight colours once; how they fall is not known here, and must
    # not matter: the mean of 0, 1 and 2 is 1. The weight of the objective plays no part.
    expected = {"pairs/colour": pytest.approx(1.0), "pairs/colour/twice": pytest.approx(2.0)}
    assert values(tokenizer, below=3) == expected
    assert values(tokenizer)["pairs/colour"] == pytest.approx(3.5)
