import pytest

from tests.evaluators import worlds
from unified_fm.data.streams import stream
from unified_fm.evaluators import held_out


def streams():
    """As a run has them: its own source is another one, and it augments and masks."""
    options = worlds.OPTIONS | {"num_masked": 2, "randaugment": "none"}
    source = "tests.evaluators.worlds:duplicates"
    return {"pairs": stream("image_text", source, 3, {"colour": 7.0}, **options)}


def run(below=8, **options):
    tokenizer = worlds.make_tokenizer()
    evaluator = held_out.Evaluator(
        like="pairs",
        source="tests.evaluators.worlds:eight",
        streams=streams(),
        tokenizer=tokenizer,
        **options,
    )
    evaluator.check()
    objectives = {"pairs": {"colour": worlds.Objective(below=below)}}
    apply = worlds.Apply(worlds.Oracle(tokenizer), objectives)
    metrics = {m.name: m for m in evaluator.run(apply, {})}
    assert apply.compiled == 1
    better = {"pairs/colour": "lower", "pairs/colour/twice": "lower", "pairs/colour/half": "higher"}
    assert {name: m.better for name, m in metrics.items()} == better
    return {name.removeprefix("pairs/colour"): m.value for name, m in metrics.items()}


def test_batches_are_joined_by_their_denominators():
    # Three batches of three are all eight colours once and a row that fills up.
    assert run() == pytest.approx({"": 3.5, "/twice": 7.0, "/half": 1.75})
    # The mean of 0, 1 and 2 lies in one batch; the others have nothing to say.
    assert run(below=3)[""] == pytest.approx(1.0)
    assert run(below=4)[""] == pytest.approx(1.5)  # by rows, not by batches
    assert run(batch_size=8)[""] == pytest.approx(3.5)
    assert run(num_examples=4)[""] == pytest.approx(1.5)


def test_its_metrics_are_known_before_it_runs():
    made = held_out.Evaluator(like="pairs", source="a:b", streams=streams())
    assert made.metric_names == ("pairs/colour",)
    assert made.asks == ("pairs",)
    with pytest.raises(ValueError, match="like is 'pears'; did you mean 'pairs'"):
        held_out.Evaluator(like="pears", source="a:b", streams=streams())
