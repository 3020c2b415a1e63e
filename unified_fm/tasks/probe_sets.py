"""The 18 image sets by which vision encoders are probed (X-FM's Table 7), as rows of one table.

Nothing is downloaded: a `tfds:` set must have been prepared, and a `folder:` set lies below the
data folder as `NAME/train/CLASS/*.jpg`, `NAME/test/CLASS/*.jpg`. Metrics are those of CLIP's
protocol; X-FM and FLAVA report accuracy on all sets, so both are always computed.
"""

import dataclasses
from collections.abc import Mapping

from unified_fm import choices
from unified_fm.tasks._probes.deep import Recipe

ACCURACY, PER_CLASS = "accuracy", "mean_per_class"
METRICS = (ACCURACY, PER_CLASS)
DATA = "DATA"  # in a source string: the folder of the user's data


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeSet:
    """One set.

    Attributes:
        name: by which it is chosen.
        train: source string to learn from.
        validation: source string to choose with; "": a tenth of `train`, by the hash of the ids.
        test: source string; "": a part of `train`, by the hash of the ids.
        per_class: without `test`, so many of each class are for training, and the rest is the test;
            None: a fifth is the test.
        classes: how many there are; None: not known.
        metric: the one of the table, of `METRICS`.
        sizes: expected records of `train`, `validation` and `test`, as far as these are given.
        recipe: of `mlp5`, as published.
        prompts: what the set is called in clip-benchmark's list of templates; "": nothing.
        names: the same in its list of class names; "": the source's own names are good.
        note: what is easily got wrong, for the table.
    """

    name: str
    train: str
    validation: str = ""
    test: str = ""
    per_class: int | None = None
    classes: int | None = None
    metric: str = ACCURACY
    sizes: tuple[int, ...] = ()
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    prompts: str = ""
    names: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        choices.check("metric", self.metric, METRICS)

    @property
    def sources(self) -> tuple[str, ...]:
        """The source strings that it has, in the order of `sizes`."""
        return tuple(filter(None, (self.train, self.validation, self.test)))

    @property
    def split(self) -> str:
        """How the data are split, in words."""
        if not self.test and self.per_class:
            rest = f"{self.per_class} of each class by hash are for training, the rest is the test"
        else:
            rest = "official test" if self.test else "a fifth by hash is the test"
        own = "validation given" if self.validation else "a tenth of training by hash is validation"
        return f"{rest}; {own}"

    def at(self, folder: str) -> "ProbeSet":
        """With the folder of the user's data in the source strings."""
        found = {
            field: getattr(self, field).replace(DATA, folder)
            for field in ("train", "validation", "test")
        }
        return dataclasses.replace(self, **found)


_SLOW = Recipe(lr=4e-5, least=1e-7)
_PLAIN = Recipe(smoothing=0.0)

_ROWS = (
    ProbeSet(
        name="imagenet",
        train="tfds:imagenet2012:train[:99%]",
        validation="tfds:imagenet2012:train[99%:]",
        test="tfds:imagenet2012:validation",
        classes=1000,
        sizes=(1_268_355, 12_812, 50_000),
        recipe=_SLOW,
        prompts="imagenet1k",
        names="imagenet1k",
        note="validation is the last 1 % of train; the official validation is the test",
    ),
    ProbeSet(
        name="food101",
        train="tfds:food101:train",
        test="tfds:food101:validation",
        classes=101,
        sizes=(75_750, 25_250),
        prompts="food101",
        note="what TFDS calls validation is the official test",
    ),
    ProbeSet(
        name="cifar10",
        train="tfds:cifar10:train",
        test="tfds:cifar10:test",
        classes=10,
        sizes=(50_000, 10_000),
        prompts="cifar10",
    ),
    ProbeSet(
        name="cifar100",
        train="tfds:cifar100:train",
        test="tfds:cifar100:test",
        classes=100,
        sizes=(50_000, 10_000),
        prompts="cifar100",
    ),
    ProbeSet(
        name="cars",
        train="tfds:cars196:train",
        test="tfds:cars196:test",
        classes=196,
        sizes=(8_144, 8_041),
        recipe=Recipe(lr=4e-5, least=1e-7, smoothing=0.0),
        prompts="cars",
    ),
    ProbeSet(
        name="aircraft",
        train="folder:DATA/aircraft/train",
        validation="folder:DATA/aircraft/val",
        test="folder:DATA/aircraft/test",
        classes=100,
        metric=PER_CLASS,
        sizes=(3_334, 3_333, 3_333),
        prompts="fgvc_aircraft",
        note="the 100 variants; X-FM's head has 102 outputs",
    ),
    ProbeSet(
        name="dtd",
        train="tfds:dtd:train",
        validation="tfds:dtd:validation",
        test="tfds:dtd:test",
        classes=47,
        sizes=(1_880, 1_880, 1_880),
        recipe=Recipe(batch=512),
        prompts="dtd",
        note="the first of ten official splits",
    ),
    ProbeSet(
        name="pets",
        train="tfds:oxford_iiit_pet:train",
        test="tfds:oxford_iiit_pet:test",
        classes=37,
        metric=PER_CLASS,
        sizes=(3_680, 3_669),
        prompts="pets",
        names="pets",
    ),
    ProbeSet(
        name="flowers",
        train="tfds:oxford_flowers102:train",
        validation="tfds:oxford_flowers102:validation",
        test="tfds:oxford_flowers102:test",
        classes=102,
        metric=PER_CLASS,
        sizes=(1_020, 1_020, 6_149),
        recipe=Recipe(lr=1e-4, batch=512, smoothing=0.0),
        prompts="flowers",
        names="flowers",
        note="variants with train and test exchanged are about: the test has 6,149",
    ),
    ProbeSet(
        name="mnist",
        train="tfds:mnist:train",
        test="tfds:mnist:test",
        classes=10,
        sizes=(60_000, 10_000),
        prompts="mnist",
        names="mnist",
    ),
    ProbeSet(
        name="stl10",
        train="tfds:stl10:train",
        test="tfds:stl10:test",
        classes=10,
        sizes=(5_000, 8_000),
        recipe=Recipe(smoothing=0.0, epochs=200),
        prompts="stl10",
        note="its ten folds are not used",
    ),
    ProbeSet(
        name="country211",
        train="folder:DATA/country211/train",
        validation="folder:DATA/country211/valid",
        test="folder:DATA/country211/test",
        classes=211,
        sizes=(31_650, 10_550, 21_100),
        recipe=_SLOW,
        prompts="country211",
        names="country211",
    ),
    ProbeSet(
        name="sun397",
        train="tfds:sun397/standard-part1-120k:train",
        test="tfds:sun397/standard-part1-120k:test",
        classes=397,
        sizes=(19_850, 19_850),
        recipe=Recipe(lr=4e-5, least=1e-7, smoothing=0.0),
        prompts="sun397",
        note="part 1 of ten; X-FM's published number has training pictures in its test",
    ),
    ProbeSet(
        name="sst",
        train="folder:DATA/rendered-sst2/train",
        validation="folder:DATA/rendered-sst2/valid",
        test="folder:DATA/rendered-sst2/test",
        classes=2,
        sizes=(6_920, 872, 1_821),
        recipe=Recipe(lr=1e-4, batch=1024, smoothing=0.0),
        prompts="renderedsst2",
        note="sentences drawn as pictures",
    ),
    ProbeSet(
        name="caltech101",
        train="tfds:caltech101:train+tfds:caltech101:test",
        per_class=30,
        classes=102,
        metric=PER_CLASS,
        sizes=(9_144,),
        recipe=_PLAIN,
        prompts="caltech101",
        names="caltech101_vtab",
        note="no official split, and 102 labels with the background; X-FM's published number has"
        " training pictures in its test",
    ),
    ProbeSet(
        name="gtsrb",
        train="folder:DATA/gtsrb/train",
        test="folder:DATA/gtsrb/test",
        classes=43,
        sizes=(26_640, 12_630),
        recipe=_PLAIN,
        prompts="gtsrb",
        names="gtsrb",
        note="folders 00000 to 00042, so that their order is that of the numbers",
    ),
    ProbeSet(
        name="pcam",
        train="tfds:patch_camelyon:train",
        validation="tfds:patch_camelyon:validation",
        test="tfds:patch_camelyon:test",
        classes=2,
        sizes=(262_144, 32_768, 32_768),
        recipe=Recipe(lr=5e-6, batch=2048, smoothing=0.0),
        prompts="pcam",
        names="pcam",
    ),
    ProbeSet(
        name="fer2013",
        train="folder:DATA/fer2013/train",
        test="folder:DATA/fer2013/test",
        classes=7,
        sizes=(28_709, 3_589),
        recipe=_PLAIN,
        prompts="fer2013",
        names="fer2013",
        note="the test is PrivateTest; folders 0 to 6",
    ),
)
SETS: Mapping[str, ProbeSet] = {row.name: row for row in _ROWS}


def chosen(names: str) -> dict[str, ProbeSet]:
    """Sets by their names, joined by commas; "all" is all.

    Raises:
        ValueError: no such set, with the nearest.
    """
    wanted = list(SETS) if names == "all" else names.split(",")
    return {name: SETS[choices.check("set", name, SETS)] for name in wanted}
