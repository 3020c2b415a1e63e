"""What a re-ranking has computed so far, on disk: it goes on there, and is never computed twice.

    WORKDIR/predictions/rerank/val/800-1a2b3c4d5e6f/features.npz       of all images and captions
    WORKDIR/predictions/rerank/val/800-1a2b3c4d5e6f/chunk_00000.npz    logits, by the first image

The hash is that of the parameters, the model, the pictures and tokens as they are asked, and the
numbers that decide which pairs are scored together: another checkpoint, other data or another k
is another folder. The features are kept, too, since the candidates depend on their last digits, and
those on the device. A file is written whole or not at all.
"""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from unified_fm.evaluators._gallery import Gallery
from unified_fm.evaluators._passes import Processes
from unified_fm.evaluators._place import Place
from unified_fm.files import write_whole

_log = logging.getLogger(__name__)
_FOLDER = "rerank"
Arrays = Mapping[str, np.ndarray]


class Chunks:
    """The folder of one evaluation."""

    def __init__(self, folder: Any, processes: Processes):
        self.folder = folder
        self._processes = processes
        folder.mkdir(parents=True, exist_ok=True)

    def features(self, compute: Callable[[], Arrays]) -> Arrays:
        """The features, as they were computed at the first time. All processes call it alike."""
        kept = self._read("features.npz")
        # What one has not seen is computed by all, who share the work.
        if all(self._processes.gather_values([kept is not None])) and kept is not None:
            return kept
        found = compute()
        if self._processes.index == 0:
            self._write("features.npz", found)
        return found

    def logits(self, first: int, pairs: np.ndarray) -> np.ndarray | None:
        """The kept logits f32[P] of pairs i[P 2] of the chunk whose first image is `first`.

        None: they are not there, are damaged, or are of other pairs.
        """
        kept = self._read(_name(first))
        if kept is None:
            return None
        if kept.keys() != {"pairs", "logit"} or not np.array_equal(kept["pairs"], pairs):
            _log.warning("%s has other pairs, and is made again", self.folder / _name(first))
            return None
        return kept["logit"]

    def keep(self, first: int, pairs: np.ndarray, logits: np.ndarray) -> None:
        """Writes them. Raises OSError."""
        self._write(_name(first), {"pairs": pairs.astype(np.int32), "logit": logits})

    def finish(self) -> None:
        """Removes what earlier evaluations of the same name have left."""
        if self._processes.index == 0:
            for other in self.folder.parent.iterdir():
                if other.name != self.folder.name:
                    other.rmtree()

    def _read(self, name: str) -> Arrays | None:
        path = self.folder / name
        if not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
                return dict(found)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            _log.warning("%s is damaged, and made again: %s", path, error)
            return None

    def _write(self, name: str, arrays: Arrays) -> None:
        out = io.BytesIO()
        np.savez(out, allow_pickle=False, **arrays)
        write_whole(self.folder / name, out.getvalue())


def below(
    predictions: Any,
    place: Place,
    processes: Processes,
    params: Any,
    gallery: Gallery,
    numbers: Mapping[str, Any],
) -> Chunks:
    """The chunks of an evaluation.

    Args:
        predictions: folder of its output, an `epath.Path`.
        place: the evaluator's.
        processes: that share it; all call this.
        params: of the model.
        gallery: what is ranked.
        numbers: whatever else decides which pairs are scored, and which together.
    """
    own = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        _add(own, jax.tree_util.keystr(path), leaf)
    for name, array in gallery.held.arrays.items():
        _add(own, name, array)
    total = hashlib.sha256("".join(processes.gather_values([own.hexdigest()])).encode())
    for name in ("text", "text_mask", "image_of"):
        _add(total, name, getattr(gallery, name))
    about = {"names": gallery.names, "model": place.model, "processes": processes.count, **numbers}
    total.update(json.dumps(about, sort_keys=True, default=str).encode())
    stem = f"{place.step}-{total.hexdigest()[:12]}"
    return Chunks(predictions / _FOLDER / place.name / stem, processes)


def _add(total: Any, name: str, array: Any) -> None:
    array = np.asarray(array)
    total.update(f"{name} {array.dtype} {array.shape}\n".encode())
    total.update(array.tobytes())


def _name(first: int) -> str:
    return f"chunk_{first:05d}.npz"
