"""`.pth`, `.th` and `.bin`: the zip files that `torch.save` writes, read without PyTorch.

The archive holds one pickle (`data.pkl`) and one stored entry per storage (`data/0`, ...). Both are
read by our own code (`zip_entries.py`, `torch_pickle.py`); nothing of the file is run.
"""

import math
import os
import re
import zlib

from unified_fm.convert.errors import CheckpointFormatError
from unified_fm.convert.readers import lazy, torch_pickle
from unified_fm.convert.readers.lazy import LazyArrays
from unified_fm.convert.readers.zip_entries import stored_entries

# Where training code puts the weights in the dict that it saves, in the order looked for.
_PLACES = ("model", "module", "state_dict", "model_state_dict")
_ENTRY = 400  # bytes of memory for an entry of the archive
_MAX_PICKLE = 2**26
_LEGACY = (
    "it is in the format of PyTorch before 1.6, which cannot be read safely; convert it where "
    "PyTorch is installed: python -c \"import torch; torch.save(torch.load('OLD', "
    "weights_only=True), 'NEW')\""
)


def open_torch(path: str | os.PathLike) -> LazyArrays:
    """Opens the weights of a PyTorch file; arrays are read when they are asked for.

    The weights are the dict of tensors under `model`, `module`, `state_dict` or
    `model_state_dict`, or the saved dict itself.

    Raises:
        CheckpointFormatError: the file is not a zip file of `torch.save`, is damaged, or holds
            anything but tensors and plain data.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic != b"PK\x03\x04":
            legacy = magic[:1] == b"\x80" or not magic.strip(b"\0 ")
            raise CheckpointFormatError(_LEGACY if legacy else f"no zip file, it begins {magic!r}")
        entries = stored_entries(path)
        root = _root(entries)
        _check_byte_order(file, entries, root)
        program = _checked_read(file, entries[f"{root}/data.pkl"], "data.pkl")
    memory = lazy.memory_limit(size) - len(program) - _ENTRY * len(entries)
    content = torch_pickle.interpret(program, memory=memory)
    tensors = _find_weights(content)

    views, total = {}, 0
    for name, tensor in tensors.items():
        views[name] = _entry(name, tensor, entries, root)
        total += lazy.itemsize(tensor.storage.dtype) * math.prod(tensor.shape)
    if total > 4 * size:
        raise CheckpointFormatError(f"tensors of {total} bytes in a file of {size}: refused")
    return LazyArrays(path, views)


def _root(entries) -> str:
    roots = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl")]
    roots = [root for root in roots if "/" not in root]
    if len(roots) != 1:
        raise CheckpointFormatError(f"a PyTorch file has one data.pkl, this one {len(roots)}")
    if any(name.startswith(f"{roots[0]}/code/") for name in entries):
        raise CheckpointFormatError("a TorchScript program, not a file of weights")
    return roots[0]


def _check_byte_order(file, entries, root: str) -> None:
    name = f"{root}/byteorder"
    if name in entries and _checked_read(file, entries[name], name, most=16) != b"little":
        raise CheckpointFormatError("only little-endian files are read")


def _checked_read(file, block: lazy.Block, name: str, most: int = _MAX_PICKLE) -> bytes:
    if block.size > most:
        raise CheckpointFormatError(f"{name} has {block.size} bytes, more than {most}")
    file.seek(block.start)
    data = file.read(block.size)
    if len(data) != block.size or zlib.crc32(data) != block.crc:
        raise CheckpointFormatError(f"{name} does not match its checksum: the file is damaged")
    return data


def _find_weights(content) -> dict[str, torch_pickle.Tensor]:
    if type(content) is not dict:
        raise CheckpointFormatError("the file does not hold a dict of tensors")
    inner = [content[place] for place in _PLACES if type(content.get(place)) is dict]
    for candidate in [*inner, content]:
        tensors = {
            name: value
            for name, value in candidate.items()
            if type(value) is torch_pickle.Tensor and type(name) is str
        }
        if tensors:
            return tensors
    raise CheckpointFormatError(
        f"no tensors in the file, neither on top nor under {', '.join(_PLACES)}"
    )


def _entry(name: str, tensor: torch_pickle.Tensor, entries, root: str) -> lazy.Entry:
    storage = tensor.storage
    block = entries.get(f"{root}/data/{storage.key}")
    if not re.fullmatch(r"\w{1,32}", storage.key, re.ASCII) or block is None:
        raise CheckpointFormatError(f"the storage {storage.key[:40]!r} is not in the file")
    if block.size != storage.count * lazy.itemsize(storage.dtype):
        raise CheckpointFormatError(
            f"storage {storage.key} should hold {storage.count} x {storage.dtype}, the file has "
            f"{block.size} bytes for it"
        )
    return lazy.checked_entry(
        name, block, storage.dtype, tensor.shape, tensor.strides, tensor.offset
    )
