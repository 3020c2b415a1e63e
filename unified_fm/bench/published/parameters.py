"""Our parameters under the names and in the layouts of the program in PyTorch."""

from collections.abc import Mapping

import numpy as np

_NAMES = {"kernel": "weight", "scale": "weight"}


def converted(tree: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{name of a tensor: array} of {our path, "text/layer_00/mlp_in/kernel": array}."""
    found = {}
    for path, array in tree.items():
        if path.startswith("vision/") and "/self_attn/" in path and "/out/" not in path:
            continue
        found[_name(path)] = _laid_out(path, np.asarray(array))
    for path in tree:
        if path.startswith("vision/") and path.endswith("/self_attn/query/kernel"):
            found |= _joined(tree, path.removesuffix("/query/kernel"))
    return found


def _name(path: str) -> str:
    if path.startswith("patch_embed/"):
        path = f"vision/{path}"
    *module, last = path.split("/")
    if last == "embedding":  # a table; the fusion encoder's is of its head
        last = "embedding" if module[-1] == "fusion_mlm_head" else "weight"
    return ".".join([*module, _NAMES.get(last, last)])


def _laid_out(path: str, array: np.ndarray) -> np.ndarray:
    """A tensor [out in] of a kernel [in ... out ...]; a convolution's is [out in height width]."""
    if path == "patch_embed/kernel":
        return array.transpose(3, 2, 0, 1)
    if not path.endswith("/kernel"):
        return array.reshape(-1) if path.endswith("/bias") else array
    inputs = 2 if path.endswith("_attn/out/kernel") else 1  # heads and their width come in
    return array.reshape(int(np.prod(array.shape[:inputs])), -1).T


def _joined(tree: Mapping[str, np.ndarray], place: str) -> dict[str, np.ndarray]:
    """BEiT's one product for queries, keys and values, and its two biases."""
    name, kernels = place.replace("/", "."), []
    for part in ("query", "key", "value"):
        path = f"{place}/{part}/kernel"
        kernels.append(_laid_out(path, np.asarray(tree[path])))
    biases = {
        f"{name}.{part}_bias": np.asarray(tree[f"{place}/{part}/bias"]).reshape(-1)
        for part in ("query", "value")
    }
    return {f"{name}.qkv.weight": np.concatenate(kernels), **biases}
