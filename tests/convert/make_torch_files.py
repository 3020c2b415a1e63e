"""Writes `files/torch_*.pth` and `files/torch_expected.npz` with PyTorch itself (2.13).

Run once where PyTorch is installed: python tests/convert/make_torch_files.py
"""

import collections
import pathlib

import numpy as np
import torch

FILES = pathlib.Path(__file__).parent / "files"


def main():
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    state = torch.nn.Sequential(torch.nn.Linear(2, 2)).state_dict()  # has version notes
    state.update(
        collections.OrderedDict(
            transposed=torch.randn(4, 3).t(),
            view=base[1:4, ::2],
            tied_a=base,
            tied_b=base,
            half=torch.randn(5).half(),
            brain=torch.randn(2, 3).bfloat16(),
            double=torch.randn(2).double(),
            index=torch.arange(6).reshape(2, 3),
            small=torch.tensor([-1, 2], dtype=torch.int8),
            flags=torch.tensor([True, False]),
            scalar=torch.tensor(0.07),
            empty=torch.zeros(0, 3),
            parameter=torch.nn.Parameter(torch.randn(2, 2)),
        )
    )
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 2)}},
        "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
    }
    config = {"list": [1, 2.5, None, True, "x"], "large": 2**40}
    whole = {"model": state, "config": config, "optimizer": optimizer, "epoch": 3}
    torch.save(whole, FILES / "torch_training.pth")
    torch.save(state, FILES / "torch_bare.bin")
    torch.save(state, FILES / "torch_protocol4.pth", pickle_protocol=4)
    torch.save(state, FILES / "torch_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(1, 1), FILES / "torch_module.pth")
    torch.save({"a": torch.zeros(1).expand(1000)}, FILES / "torch_expanded.pth")
    np.savez(FILES / "torch_expected.npz", **{name: _numpy(x) for name, x in state.items()})


def _numpy(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


if __name__ == "__main__":
    main()
