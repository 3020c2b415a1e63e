"""What results.json holds if the arms of the UFM ablation have such losses."""

import numpy as np

from experiments.ufm_ablation import arms, conclusions


def results(text, image=None, *, n=8, noise=0.001):
    """What results.json holds if these arms have these losses, with a little noise of their own.

    All other arms of the plan are there, too, with losses that nothing is concluded from.
    """
    rng = np.random.default_rng(0)
    losses = {"text": text, "image": image or {}}
    entries = {
        arm: {
            "changes": {},
            "void": False,
            "seeds": {
                str(seed): {
                    "scores": {
                        conclusions.LOSSES[stream]: levels[arm] + noise * rng.standard_normal()
                        for stream, levels in losses.items()
                        if arm in levels
                    },
                    "curves": {
                        name: [6.0, levels[arm]]
                        for name, levels in (("text/mlm", text), ("image/classify", image or {}))
                        if arm in levels
                    },
                    "seconds": 30.0,
                    "commit": "0123456789ab",
                }
                for seed in range(n)
            },
        }
        for arm in {**text, **losses["image"], **arms.arms()}
    }
    floors = {"words/cross_entropy": 6.1}
    return {"settings": {"total_steps": 1500}, "floors": floors, "arms": entries}
