"""A run that takes a second: text and images through the tiny model."""

from ml_collections import ConfigDict

from unified_fm.config import settings
from unified_fm.data.streams import stream


def get_config(argument: str = "") -> ConfigDict:
    """The config; `argument` is the number of steps."""
    c = settings.start()
    c.total_steps = int(argument or 6)
    c.model = dict(name="tests.tiny", dropout=0.1)
    c.streams = dict(
        text=stream("text", "synthetic:text", 8, dict(mlm=1.0), max_len=16, threads=1),
        image=stream(
            "image",
            "synthetic:image",
            8,
            dict(mim=dict(weight=0.5)),
            size=16,
            patch_size=8,
            num_masked=2,
            threads=1,
        ),
    )
    c.optimizer.lr = 0.01
    c.checkpoint.every = 2
    c.checkpoint.keep = 100
    c.log.every = 1
    c.log.tensorboard = False
    c.report = False
    return c
