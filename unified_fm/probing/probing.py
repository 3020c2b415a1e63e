"""Probes of a checkpoint on sets of labelled pictures: what is not there yet is made, then kept."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from unified_fm.data.sources.base import Source
from unified_fm.probing import cache, methods, prompts, results, splits
from unified_fm.probing.asked import PROJECTED, SUMMARY, Asked
from unified_fm.probing.methods import Options
from unified_fm.probing.results import Result
from unified_fm.tasks._baselines.base import NotInstalled
from unified_fm.tasks._baselines.table import BASELINES, Named
from unified_fm.tasks._probes.deep import Recipe
from unified_fm.tasks.probe_sets import ProbeSet

MANY = 20_000  # pictures of a set, beyond which no baseline looks at them

Told = Callable[[str], None]
Sources = Mapping[str, Source]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be measured.

    Attributes:
        methods: of `methods.METHODS`.
        options: of them.
        recipe: changes of the sets' recipes of `mlp5`, {field: value}.
        prompts: the user's names and templates, as `prompts.read` gives them.
        baselines: whether trivial baselines are computed.
    """

    methods: Sequence[str]
    options: Options = dataclasses.field(default_factory=Options)
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prompts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    baselines: bool = True


class OfSet:
    """One set with one checkpoint."""

    def __init__(
        self,
        row: ProbeSet,
        sources: Sources,
        asked: Asked,
        features: cache.Cache,
        wanted: Wanted,
        told: Told,
    ):
        """Looks at the sizes of the sources; nothing is computed yet.

        Args:
            row: the set.
            sources: {source string of the row: its source}.
            asked: the model.
            features: where they are kept.
            wanted: what is to be measured.
            told: called with lines about the progress.
        """
        self.row, self.sources, self.asked, self.features = row, sources, asked, features
        self.wanted, self.told = wanted, told
        self.notes = [*self._counted()]
        self._identity: dict[str, str] = {}
        self._parts: dict[str, splits.Parts] = {}

    def run(self, kept: results.Results) -> Iterator[Result]:
        """Yields the result of each method and each baseline, those that are kept as they are.

        Raises:
            NotTrained: the checkpoint cannot do what a method needs.
            ValueError: data that cannot be used.
        """
        for name in self.wanted.methods:
            yield self._one(kept, name, False, self._key(name), lambda name=name: self._said(name))
        for named in self._baselines() if self.wanted.baselines else ():
            key = self._key_of("baseline", named.title, *map(self._data, self.row.sources))
            try:
                yield self._one(kept, named.title, True, key, lambda one=named: self._guessed(one))
            except NotInstalled as error:
                self.notes.append(f"{named.title}: {error}")

    def parts(self, kind: str | None = None) -> splits.Parts:
        """Training, validation and test with features of a kind; of any, where it is None."""
        kind = kind or next(iter(self._parts), None) or self._kinds()[0]
        if kind not in self._parts:
            read = {spec: self._rows(spec, kind) for spec in self.row.sources}
            found = splits.split(self.row, read)
            self._parts[kind] = found
            skipped = {spec: rows.skipped for spec, rows in read.items() if rows.skipped}
            for spec, count in skipped.items():
                self._note(f"{count:,} records of {spec} could not be used")
            known = {*found.train.labels, *found.validation.labels}
            if strangers := sorted({*found.test.labels} - known):
                shown = ", ".join(strangers[:5])
                self._note(f"{len(strangers)} classes of the test are not in training: {shown}")
        return self._parts[kind]

    @property
    def labels(self) -> list[str]:
        """The classes, in the order of the source, or sorted where it has no names."""
        named = self.sources[self.row.train].class_names
        if named:
            return list(named)
        found = {*self.parts().known.labels}
        numbers = all(label.isdecimal() for label in found)
        return sorted(found, key=int) if numbers else sorted(found)

    def _one(self, kept, method, baseline, key, make) -> Result:
        found = kept.get(self.row.name, method, key)
        if found is not None:
            self.told(f"{method}: kept from before")
            return found
        started = time.monotonic()
        said = make()
        made = Result(
            set=self.row.name,
            method=method,
            baseline=baseline,
            key=key,
            report={},
            settings={**said.settings, "split": self.row.split, "features": self._feature_keys()},
            notes=said.notes,
            data_notes=[*self.notes],
            seconds=round(time.monotonic() - started, 2),
        )
        finished = kept.put(made, said.predictions, self.parts().test, self.row.metric)
        value = finished.headline
        self.told(f"{method}: {finished.report['headline']} {100 * value['value']:.2f} %")
        return finished

    def _said(self, name: str) -> methods.Said:
        """What a method predicts."""
        options = self.wanted.options
        if name == methods.ZERO_SHOT:
            self.asked.need("similarity")
            test = self.row.test or self.row.train
            match = None
            if options.rerank:
                self.asked.need("match")
                match = self.asked.match(self.sources[test])
            rows, own = self.parts(PROJECTED).test, self._prompts()
            return methods.by_texts(
                *(rows, own, self.asked.encode_texts, match, options, self._line(name))
            )
        parts, line = self.parts(SUMMARY), self._line(name)
        if name == methods.DEEP:
            return methods.by_deep_head(parts, self.row.metric, self._recipe(), options, line)
        by = {
            methods.LINEAR: methods.by_regression,
            methods.NEIGHBOURS: methods.by_neighbours,
        }[name]
        return by(parts, self.row.metric, options, line)

    def _guessed(self, named: Named) -> methods.Said:
        """What a trivial baseline predicts, from training and validation."""
        parts, row = self.parts(), self.row
        names = sorted({*parts.known.labels, *parts.test.labels})
        from_train = self._examples(row.train, parts.train, names)
        validation = self._examples(row.validation or row.train, parts.validation, names)
        test = self._examples(row.test or row.train, parts.test, names)
        said = named.predict([*from_train, *validation], test)
        return methods.Said([[names[k]] for k in said], {}, [])

    def _examples(self, spec: str, rows: cache.Rows, names: Sequence[str]) -> list["_Example"]:
        numbers = methods.numbered(rows.labels, names)
        source = self.sources[spec]
        pairs = zip(rows.numbers, numbers, strict=True)
        return [_Example(source, int(number), int(label)) for number, label in pairs]

    def _baselines(self) -> tuple[Named, ...]:
        if sum(map(len, self.sources.values())) > MANY:
            self._note(f"no baseline looks at more than {MANY:,} pictures")
            return BASELINES["many pictures"]
        return BASELINES["pictures"]

    def _rows(self, spec: str, kind: str) -> cache.Rows:
        pace = _Pace(self._line(f"features of {spec}"))
        key = self.asked.key(kind, self._data(spec))
        encode, size = self.asked.encode(kind), self.asked.at_once
        return self.features.rows(key, self.sources[spec], encode, at_once=size, told=pace)

    def _data(self, spec: str) -> str:
        """The hash of the data of a source."""
        if spec not in self._identity:
            self._identity[spec] = cache.identity(self.sources[spec])
        return self._identity[spec]

    def _kinds(self) -> list[str]:
        """The kinds of features that the wanted methods need."""
        alone = set(self.wanted.methods) - {methods.ZERO_SHOT}
        found = [SUMMARY] if alone else []
        return found + ([PROJECTED] if methods.ZERO_SHOT in self.wanted.methods else [])

    def _feature_keys(self) -> dict[str, str]:
        return {
            f"{kind} {spec}": self.asked.key(kind, self._data(spec))
            for kind in self._parts
            for spec in self.row.sources
        }

    def _key(self, name: str) -> str:
        """Of all that a method's result depends on."""
        options, kind = self.wanted.options, SUMMARY
        more: Any = None
        if name == methods.LINEAR:
            more = options.standardise
        elif name == methods.NEIGHBOURS:
            more = options.neighbours
        elif name == methods.DEEP:
            more = [dataclasses.asdict(self._recipe()), options.seed]
        else:
            own, kind = self._prompts(), PROJECTED
            more = [options.rerank, own.names, own.templates]
        keys = [self.asked.key(kind, self._data(spec)) for spec in self.row.sources]
        return self._key_of("method", name, *keys, more)

    def _key_of(self, *about: Any) -> str:
        split = [self.row.split, self.row.metric, self.row.sources]
        return cache.key_of({"split": split, "about": about})

    def _prompts(self) -> prompts.Prompts:
        return prompts.of(self.row, self.labels, self.wanted.prompts)

    def _recipe(self) -> Recipe:
        return dataclasses.replace(self.row.recipe, **self.wanted.recipe)

    def _line(self, name: str) -> Told:
        return lambda text: self.told(f"{name}: {text}")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _counted(self) -> Iterator[str]:
        """What is to be said about the size of the data."""
        found = tuple(map(len, self.sources.values()))
        if self.row.sizes and found != self.row.sizes:
            expected = ", ".join(f"{size:,}" for size in self.row.sizes)
            yield f"expected {expected} records, found {', '.join(f'{n:,}' for n in found)}"
        names = self.sources[self.row.train].class_names
        if self.row.classes and names and len(names) != self.row.classes:
            yield f"expected {self.row.classes} classes, found {len(names)}"
        if self.row.note:
            yield self.row.note


class _Example(Mapping[str, Any]):
    """A record, which is read when more than its label is asked for."""

    def __init__(self, source: Source, number: int, label: int):
        self._source, self._number, self._label = source, number, label

    def __getitem__(self, key: str) -> Any:
        return self._label if key == "label" else self._source[self._number][key]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._source[self._number], "label": self._label})

    def __len__(self) -> int:
        return len([*self])


class _Pace:
    """Tells now and then how far the features are, and how long the rest takes."""

    def __init__(self, told: Told, every: float = 10.0):
        self._told, self._every = told, every
        self._started = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        if now - self._last < self._every:
            return
        self._last = now
        each = (done - self._first) / (now - self._started)
        left = f", {each:.0f} a second, {round((of - done) / each):,} s left" if each > 0 else ""
        self._told(f"{done:,} of {of:,}{left}")
