"""A tiny BERT of untrained parameters, for tests of teachers."""

import numpy as np

from tests.models import tiny_ufm as tiny
from unified_fm import plugins
from unified_fm.checkpoint import store

LAYERS = {"layers": 1, "width": 8, "heads": 2, "mlp_width": 16}
BERT = {"name": "bert", "vocab_size": 261, "max_positions": 16, "text": LAYERS}


def save(path):
    """Writes its parameters into a new folder, which may be in a bucket."""
    batch = {
        "text_masked": np.zeros((1, 16), np.int32),
        "text_mask": np.ones((1, 16), bool),
        "masked_positions": np.zeros((1, 3), np.int32),
    }
    options = dict(BERT)
    net = plugins.build("models", options.pop("name"), **options)
    store.save_params(path, tiny.params(net, tiny.targets, batch))
