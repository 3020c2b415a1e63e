"""What probing asks of a loaded model, and the hashes of all that its features depend on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unified_fm.data.sources.base import Source
from unified_fm.inference.model import Model
from unified_fm.probing.cache import Encode, key_of

SUMMARY, PROJECTED = "summary", "projected"  # before, and after the projection


class Asked:
    """A model as far as probes know it."""

    def __init__(self, model: Model):
        self._model = model

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """See `Model.info`."""
        return self._model.info

    @property
    def at_once(self) -> int:
        """Pictures that are given to it at once: several batches, for decoding has threads."""
        return 4 * self.info["batch_size"]

    def need(self, method: str) -> None:
        """Raises NotTrained unless it can do this."""
        self._model.need(method)

    def encode(self, kind: str) -> Encode:
        """Features of pictures; None for one that cannot be decoded."""
        project = kind == PROJECTED
        given = {"normalize": project, "project": project, "on_error": "skip"}
        return functools.partial(self._model.encode_image, **given)

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """f32[M E]: features of texts in the space that they share with images."""
        return np.asarray(self._model.encode_text(texts))

    def match(self, source: Source) -> Callable[[list[int], list[str]], np.ndarray]:
        """(record numbers, texts) -> probability f32[N] that each pair fits."""

        def asked(numbers: Sequence[int], texts: list[str]) -> np.ndarray:
            images = {number: source[number]["image"] for number in dict.fromkeys(numbers)}
            return np.asarray(self._model.match([images[n] for n in numbers], texts))

        return asked

    def key(self, kind: str, data: str) -> str:
        """The key of features: of parameters, reading, precision and data."""
        info = self.info
        return key_of(
            {
                "checkpoint": info["sha256"],
                "transform": self.transform,
                "dtype": info["dtype"],
                "feature": kind,
                "data": data,
            }
        )

    @property
    def transform(self) -> dict[str, Any]:
        """How pictures are read: the options of the run's pipeline."""
        return dict(self.info["images"] or {})

    def facts(self) -> dict[str, str]:
        """What stands above a table."""
        info = self.info
        step = f", step {info['step']}" if "step" in info else ""
        reading = ", ".join(f"{name} {value}" for name, value in self.transform.items())
        return {
            "checkpoint": f"{info['path']}{step}, sha256 {info['sha256']['parameters'][:12]}",
            "feature": "slot 0 of the image encoder, before any projection",
            "transform": f"{reading}; as the evaluations of the run, nothing augmented",
            "precision": info["dtype"],
        }
