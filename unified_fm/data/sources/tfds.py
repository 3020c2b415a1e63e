"""`tfds:NAME/CONFIG:SPLIT`: a dataset of TensorFlow Datasets, read without TensorFlow.

    tfds:cifar10:train
    tfds:glue/sst2:train[:90%]
    tfds:coco_captions:train:data/tfds      the folder where it was prepared
    tfds:data/tfds/my_set/1.0.0:train       a prepared dataset's own folder

It must have been prepared before, as array_record; nothing is downloaded here. The folder is the
third part, or TFDS_DATA_DIR, or TFDS's own default. Images stay encoded until the pipeline wants
them. Taken over: the first image as `image`; `label` (or the only class label); the first of
`text`, `sentence`, `caption`, `captions`, `document` as `text`; `objects` with `bbox` and `label`
as `regions`, with the label's name as the text. All other features are passed on under their names,
but one that is called `id`: that is the record's number in its split, also in a slice of it (where
several are joined by +: among all of them).
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from unified_fm import buckets
from unified_fm.data import images
from unified_fm.data.skips import Skip
from unified_fm.data.sources import base

_ARGUMENT = re.compile(
    r"(?P<name>[^:\[\]]+(:\d+\.\d+\.\d+)?):(?P<split>[\w.-]+(\[[^\]]*\])?([+][\w.-]+(\[[^\]]*\])?)*)"
    r"(:(?P<folder>.+))?"
)
_TEXTS = ("text", "sentence", "caption", "captions", "document")


class Source(base.Source):
    """Random access to a prepared split; see the module for what is taken over.

    Attributes:
        class_names: of `label`, in order; empty if it has none.
    """

    def __init__(self, argument: str):
        """Opens the dataset.

        Raises:
            ValueError: not NAME:SPLIT, or no such dataset.
            FileNotFoundError: not prepared there as array_record, or no such split.
        """
        match = _ARGUMENT.fullmatch(argument)
        if not match:
            raise ValueError(f"tfds:{argument} is not tfds:NAME/CONFIG:SPLIT or ...:SPLIT:FOLDER")
        buckets.refuse(match["folder"] or "", f"tfds:{argument}")
        builder = _builder(match["name"], match["folder"])
        features: Mapping[str, Any] = dict(builder.info.features)
        self._names = _find_features(features)
        self.class_names = _class_names(features.get(self._names.get("label", "")))
        self._objects = _class_names(features["objects"]["label"]) if _boxed(features) else []
        decoders = {
            name: tfds.decode.SkipDecoding()
            for name, feature in features.items()
            if isinstance(feature, tfds.features.Image)
        }
        try:
            self._data = builder.as_data_source(match["split"], decoders=decoders)
            split = tfds.core.ReadInstruction.from_spec(match["split"])
            pieces = split.to_absolute(builder.info.splits)
        except Exception as error:  # AssertionError, NotImplementedError, ... by what is missing
            raise FileNotFoundError(
                f"tfds:{argument} is not there as array_record ({error}). Prepare it once: tfds"
                f" build {builder.name} --file_format=array_record --data_dir=FOLDER"
            ) from error
        self._first = 0
        if len(pieces) == 1:
            self._first = pieces[0].from_ or 0
            folder = f":{match['folder']}" if match["folder"] else ""
            self.origin = f"tfds:{match['name']}:{pieces[0].splitname}{folder}"

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a record that cannot be read."""
        try:
            record = self._data[index]
        except Exception as error:  # a damaged record: RuntimeError, DecodeError, ...
            raise Skip("damaged record", f"record {index}: {error}") from error
        known = {*self._names.values(), *(["objects"] if self._objects else [])}
        example = {key: _plain(value) for key, value in record.items() if key not in known}
        example["id"] = self._first + index
        for name, key in self._names.items():
            value = _plain(record[key])
            if isinstance(value, dict):  # captions: {"text": [...], ...}
                value = value.get("text")
            example[name] = value
        if self._objects:
            example["regions"] = self._regions(record["objects"], example["image"])
        return example

    def _regions(self, objects: dict[str, Any], image: bytes) -> list[dict[str, Any]]:
        """TFDS's boxes (top, left, bottom, right in 0..1) in pixels."""
        picture = images.Picture(image, max_pixels=images.MOST_PIXELS)  # only its header
        height, width = picture.height, picture.width
        regions = []
        for box, label in zip(objects["bbox"], objects["label"], strict=True):
            top, left, bottom, right = (float(x) for x in box)
            pixels = [left * width, top * height, (right - left) * width, (bottom - top) * height]
            regions.append({"box": pixels, "text": self._objects[int(label)]})
        return regions


def _builder(name: str, folder: str | None) -> Any:
    if os.path.exists(os.path.join(name, "dataset_info.json")):
        return tfds.builder_from_directory(name)
    try:
        return tfds.builder(name, data_dir=folder, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"tfds:{name}: no such dataset in TFDS, and no such folder") from error


def _find_features(features: Mapping[str, Any]) -> dict[str, str]:
    """Our key -> the dataset's key."""
    found = {}
    pictures = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    texts = [key for key in _TEXTS if key in features]
    if pictures:
        found["image"] = "image" if "image" in pictures else pictures[0]
    if "label" in features or len(labels) == 1:
        found["label"] = "label" if "label" in features else labels[0]
    if texts:
        found["text"] = texts[0]
    return found


def _class_names(feature: Any) -> list[str]:
    """The names of a class label; none if it has none, or is something else."""
    return list(feature.names or ()) if isinstance(feature, tfds.features.ClassLabel) else []


def _boxed(features: Mapping[str, Any]) -> bool:
    objects = features.get("objects")
    if "image" not in features or not isinstance(objects, tfds.features.Sequence):
        return False
    inner = objects.feature
    return isinstance(inner, tfds.features.FeaturesDict) and {"bbox", "label"} <= set(inner.keys())


def _plain(value: Any) -> Any:
    """NumPy's scalars and byte strings as Python's numbers and text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes) and not _is_image(value):
        return value.decode("utf-8", errors="replace")
    return value


def _is_image(value: bytes) -> bool:
    return value[:3] == b"\xff\xd8\xff" or value[:8] == b"\x89PNG\r\n\x1a\n"
