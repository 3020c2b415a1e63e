"""Runs that differ in their seed, trained in one step: each is what the library makes of it."""

import numpy as np
import pytest

from experiments import seeds
from tests import loop_runs
from unified_fm import rules
from unified_fm.checkpoint import store as checkpoint

GROUPS = {"text": ["text"], "image": ["image"]}
LEAVES = {"streams__image__objectives__mim": {"weight": {"peak": 0.5, "until": "80%"}}}
RANDOM = {"name": "igm", "shared": "text/.*", "score": "random", "t0": 1, "t1": 3, "dt": 1}


def runs(**changes):
    """Of the tiny config, with dropout, masks and order of its seed; the masks change twice.

    The weight of the images falls from step to step.
    """
    merge = RANDOM | {"seed": 0}
    made = loop_runs.config(5, gradient_groups=GROUPS, merge=merge, **LEAVES, **changes)
    return [seeds.of_seed(made, seed) for seed in (0, 3)]


@pytest.mark.nightly
def test_seeds_at_once_are_the_runs_of_the_library(run):
    steps = []
    found = [
        seeds.train(runs(), mapping=mapping, points=2, progress=steps.append)
        for mapping in ("vmap", "map")
    ]
    assert steps == [1, 2, 3, 4, 5] * 2
    for place, seed in enumerate((0, 3)):
        merge = RANDOM | {"seed": seed}
        workdir = run(f"seed{seed}", 5, seed=seed, gradient_groups=GROUPS, merge=merge, **LEAVES)
        alone = dict(rules.named_leaves(checkpoint.load_params(workdir)))
        losses = [line["text/mlm"] for line in loop_runs.lines(workdir) if "text/mlm" in line]
        for trained in found:
            for name, leaf in rules.named_leaves(trained.params):
                np.testing.assert_allclose(
                    leaf[place], alone[name], atol=2e-6, rtol=0, err_msg=name
                )
            curve = [np.mean(losses[:3]), np.mean(losses[3:])]
            np.testing.assert_allclose(trained.curves["text/mlm"][place], curve, rtol=1e-5)
            assert trained.refused[place] == 0
    kernel = np.asarray(trained.params["text"]["mlp_in"]["kernel"])
    assert abs(kernel[0] - kernel[1]).max() > 1e-2


def test_runs_that_differ_in_more_are_refused():
    first, second = runs()
    with pytest.raises(ValueError, match=r"their seed alone, found: \['total_steps'\]"):
        seeds.train([first, second.replace(total_steps=7)])
