"""The tiny run with everything that a fault can meet: saves, evaluations, averages, a report."""

from ml_collections import config_dict

from tests import tiny_config


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config; `argument` is the number of steps."""
    c = tiny_config.get_config(argument or "16")
    c.checkpoint.every = 4
    c.checkpoint.keep = 3
    c.evaluate.every = 6
    c.evaluate.params = "ema"
    c.evaluate.evaluators = dict(
        size=dict(name="tests.tiny"),
        held=dict(name="held_out", like="text", source="synthetic:text:40", num_examples=16),
    )
    c.ema = 0.9
    c.report = True
    return c
