"""The measures of agreement and of the mask, block by block, against NumPy."""

import jax
import numpy as np

from tests.optim.merge import examples
from unified_fm.optim import telemetry
from unified_fm.optim.merge import igm

LAYERS = {"encoder/layer_00": (0, 16), "encoder/layer_01": (16, 32), "encoder": (32, 36)}


def test_cosine_conflict_and_norm_ratio_of_each_block():
    rows = examples.gradients(2)
    rows[1, 16:32] = 0.0
    found = jax.jit(lambda grads: telemetry.measure(grads, shared=examples.RULE))(
        examples.grads_of(rows)
    )
    expected = {}
    for block, (start, stop) in LAYERS.items():
        a, b = rows[:, start:stop]
        norms = np.linalg.norm(a), np.linalg.norm(b)
        lost = block == "encoder/layer_01"  # no gradient of the text
        expected[f"cosine/image/text/{block}"] = 0.0 if lost else a @ b / (norms[0] * norms[1])
        expected[f"conflict/image/text/{block}"] = np.mean(a * b < 0)
        expected[f"norm_ratio/image/text/{block}"] = 0.0 if lost else norms[0] / norms[1]
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_three_groups_are_measured_in_pairs():
    found = telemetry.measure(
        examples.grads_of(examples.gradients(3)), shared=examples.RULE, scope="model"
    )
    pairs = {name.split("/", 1)[1] for name in found}
    assert pairs == {"image/text/model", "image/pairs/model", "text/pairs/model"}


def test_density_and_churn_of_the_mask():
    """A quarter of each kernel is given away at step 1, half at step 2: 3 and 6 of 12 entries."""
    merge = igm.merge(
        groups=("image", "text"),
        shared=examples.RULE,
        schedule="linear",
        t0=0,
        t1=2,
        dt=1,
    )
    rows = examples.gradients(2)
    grads, state = examples.grads_of(rows), merge.init(examples.tree(rows[0]))
    seen = []
    for step in range(4):
        state = merge.refresh(state, step)
        seen.append(telemetry.measure(grads, (state,), shared=examples.RULE))
        _, state = merge.update(grads, state)
    for block in ("encoder/layer_00", "encoder/layer_01"):
        assert [float(s[f"density/{block}"]) for s in seen] == [1.0, 0.75, 0.5, 0.5]
        # The last refresh was that of step 2, so step 3 still reports it.
        assert [float(s[f"churn/{block}"]) for s in seen] == [0.0, 0.25, 0.25, 0.25]
    assert "density/encoder" not in seen[0]  # a scale has no mask
