"""Numbers of papers beside those of the same task: other weights, other data, other machines.

They are X-FM's, as the tables of its README printed them in June 2023: of its base size, trained on
4 million or 1.3 billion pairs. They stand in a column of their own, and decide nothing.
"""

from collections.abc import Mapping

_SYSTEMS = ("X-FM 4M", "X-FM 1.3B")


def _of(metric: str, *percent: float, where: str = "") -> dict[str, dict[str, float]]:
    pairs = zip(_SYSTEMS, percent, strict=True)
    return {metric: {f"{name}{where}": round(value / 100, 4) for name, value in pairs}}


# Task -> metric -> system -> value. QQP is left out: its table does not say which metric that is.
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "cola": _of("matthews", 65.3, 65.7),
    "sst2": _of("accuracy", 95.0, 94.6),
    "mrpc": _of("mean", 91.7, 91.2),
    "stsb": _of("pearson", 90.8, 90.7),
    "mnli": _of("accuracy", 87.7, 87.7, where=", mean of m and mm"),
    "qnli": _of("accuracy", 92.9, 92.8),
    "rte": _of("accuracy", 83.8, 82.7),
    "imagenet": _of("accuracy", 85.3, 85.5),
    "vqa": _of("accuracy", 79.1, 80.5, where=" on test-dev, by a decoder"),
    "nlvr2": _of("accuracy", 86.5, 88.4),
    "refcoco": _of("testA/accuracy", 89.7, 90.4) | _of("testB/accuracy", 79.1, 79.8),
    "coco-retrieval": (_of("image_to_text/r1", 81.8, 84.2) | _of("text_to_image/r1", 64.7, 67.0)),
    "flickr-retrieval": (_of("image_to_text/r1", 97.4, 98.1) | _of("text_to_image/r1", 88.6, 89.9)),
}
