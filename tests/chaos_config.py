"""The tiny run with everything that a fault can meet: saves, evaluations, averages, a report."""

from ml_collections import config_dict

from tests import tiny_config


def get_config(argument: str = "") -> config_dict.ConfigDict:
    """The config; `argument` is the number of steps."""
    c = tiny_config.get_config(argument or "16")
    text = c.streams["text"].to_dict() | {"source": "synthetic:text:40"}
    c.checkpoint.every = 4
    c.checkpoint.keep = 3
    c.evaluate.every = 6
    c.evaluate.params = "ema"
    c.evaluate.evaluators = dict(
        size=dict(name="tests.tiny"),
        losses=dict(streams=dict(text=text), batches=2),
    )
    c.ema = 0.9
    c.report = True
    return c
