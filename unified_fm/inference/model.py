"""A loaded model: ten methods, what it is (`info`) and what it can do (`tasks`)."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from unified_fm import queries as asking
from unified_fm.inference import answering, card, features, heads, masks, ranking, zero_shot
from unified_fm.inference.items import Items, check_k, check_on_error, listed, paired, results
from unified_fm.inference.pairs import Pairs, probability
from unified_fm.inference.parts import Parts
from unified_fm.inference.results import Box


class Model:
    """A checkpoint that can be asked. `unified_fm.load` makes it.

    Every method takes one item or a list, and gives one result or as many in the same order. An
    image is a path, bytes of a file, an array u8[H W 3|4|1] or a Pillow image; EXIF is applied,
    transparency laid over white, 16 bit scaled. Texts are cleaned as in training. An item that
    cannot be used raises `BadItem`, a ValueError with its index; with `on_error="skip"` its result
    is None, and results come as a list.

    Methods whose head the checkpoint lacks raise `NotTrained`. Several threads may ask at once.
    """

    def __init__(self, parts: Parts):
        self._parts = parts

    def __repr__(self) -> str:
        facts = self._parts.facts
        return f"<unified_fm model {facts['model']} of {facts['path']}: {', '.join(self.tasks)}>"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the methods that work."""
        return self._parts.abilities.tasks

    def need(self, task: str) -> None:
        """Raises NotTrained, with what this can do and what trains the rest, unless a method works.

        Args:
            task: a method.
        """
        self._parts.abilities.need(task)

    def has(self, task: str) -> bool:
        """Whether a method, or a form of one (`abilities`), works."""
        return self._parts.abilities.has(task)

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """What this is: sizes, transform, tasks, hashes; as JSON keeps it."""
        return card.info(self._parts)

    def encode_image(
        self, images: Any, *, normalize: bool = True, project: bool = True, on_error: str = "raise"
    ) -> Any:
        """Features of images, f32[N E]; of one image f32[E].

        Args:
            images: one or several.
            normalize: to length 1; what is projected always is.
            project: into the space that texts and images share; else slot 0 of the encoder.
            on_error: see the class.
        """
        items = listed(images, "images")
        found = features.of_images(self._parts, items, check_on_error(on_error), project=project)
        return self._features(found, items, "image", normalize, project, on_error)

    def encode_text(
        self, texts: Any, *, normalize: bool = True, project: bool = True, on_error: str = "raise"
    ) -> Any:
        """Features of texts, f32[M E]; of one text f32[E]. Arguments as of `encode_image`.

        What is projected is read as a text about an image, else as a text alone, where these were
        cleaned differently in training.
        """
        items = listed(texts, "texts")
        found = features.of_texts(self._parts, items, check_on_error(on_error), project=project)
        return self._features(found, items, "text", normalize, project, on_error)

    def similarity(self, images: Any, texts: Any) -> Any:
        """Cosines in -1..1 of each image with each text, f32[N M] (not over the temperature).

        Without the axis of what was one item alone.
        """
        self._parts.abilities.need("similarity")
        return self.encode_image(images) @ np.asarray(self.encode_text(texts)).T

    def match(self, images: Any, texts: Any, *, on_error: str = "raise") -> Any:
        """Probability that pair i fits, f32[N], from the fusion encoder's matching head.

        Args:
            images, texts: of equal number, or one of them alone, which goes with all of the other.
            on_error: see the class.
        """
        self._parts.abilities.need("match")
        found, single, _ = self._over_images(asking.match, images, texts, on_error, "texts")
        shares = [None if x is None else probability(x["margin"]) for x in found]
        return results(shares, single, on_error)

    def locate(self, images: Any, phrases: Any, *, on_error: str = "raise") -> Any:
        """Where each phrase's thing is: `Box`es in pixels of the given image, after EXIF, clipped.

        Arguments as of `match`. `score` is the probability that the phrase matches the image: the
        box head has no confidence of its own.
        """
        self._parts.abilities.need("locate")
        matches = self._parts.abilities.has("match")
        fn = asking.locate_and_match if matches else asking.locate
        found, single, sizes = self._over_images(fn, images, phrases, on_error, "phrases")
        boxes = [
            None if x is None else _box(x["box"], size, probability(x.get("margin", np.nan)))
            for x, size in zip(found, sizes, strict=True)
        ]
        return boxes[0] if single else boxes

    def search(
        self, queries: Any, gallery: Any, *, k: int = 10, rerank: int = 0, on_error: str = "raise"
    ) -> Any:
        """The k best candidates of each query: a list of `Hit`s, best first.

        Args:
            queries: images or texts.
            gallery: images or texts, mostly the other kind; or their features f32[G E] made before.
            k: hits of a query.
            rerank: so many of the best by cosine (at least k) are ranked again by the matching
                head; of an image and texts, or a text and images.
            on_error: see the class. What is skipped in the gallery is no hit.
        """
        self._parts.abilities.need("search")
        asked = listed(queries, "queries")
        ready = isinstance(gallery, np.ndarray) and gallery.ndim == 2 and gallery.dtype.kind == "f"
        there = gallery if ready else listed(gallery, "gallery")
        given = {"k": k, "rerank": rerank, "on_error": check_on_error(on_error)}
        hits = ranking.search(self._parts, asked, there, **given)
        return hits[0] if asked.single else hits

    def fill_mask(
        self, texts: Any, images: Any = None, *, k: int = 5, on_error: str = "raise"
    ) -> Any:
        """The k most probable words at each mask: for each text a list of each of its masks.

        Args:
            texts: with `[MASK]` or `<mask>` in place of words.
            images: that the texts are about; None: from the text alone.
            k: words of a mask, with their probabilities; at most all that there are.
            on_error: see the class.
        """
        over = images is not None
        check_k(k)
        self._parts.abilities.need("fill_mask_over_image" if over else "fill_mask_alone")
        items, reader = listed(texts, "texts"), self._parts.preprocessing.reader(over)
        told = items.each(lambda text: masks.tokens(text, reader), check_on_error(on_error))
        # Every mask is a row of its own, so that there is one shape however many masks there are.
        rows = [row for own in told for row in own or ()]
        first = np.cumsum([0, *(len(own or ()) for own in told)])
        tokenizer = self._parts.tokenizer

        def best(answer):
            return masks.best(answer["shares"][0], k, tokenizer)

        if over:
            pictures = listed(images, "images")
            pairs = paired(items, pictures)
            asked = [(image, n) for text, image in pairs for n in range(*first[text : text + 2])]
            over_images = Pairs(self._parts, pictures, on_error)
            found = iter(over_images.ask(asking.words_over_images, rows, asked, best))
            single = items.single and pictures.single
        else:
            pairs, single = [(n, 0) for n in range(len(told))], items.single
            found = iter(features.asked(self._parts, asking.words, rows, reader.max_len, best))
        words = []
        for text, _ in pairs:
            own = [next(found) for _ in told[text] or ()]
            words.append(None if told[text] is None or None in own else own)
        return words[0] if single else words

    def classify(
        self,
        items: Any,
        labels: Sequence[str] | None = None,
        *,
        templates: Sequence[str] = ("a photo of a {}",),
        rerank: int = 0,
        on_error: str = "raise",
    ) -> Any:
        """The classes of each item with their probabilities, the most probable first.

        Args:
            items: with `labels`, images (a str is a path). Else whatever the task of the run is
                about: images, texts, (text, text), (image, text), ((image, image), text), or dicts
                with the fields of the task's files.
            labels: classes without training: the names are put into the templates, and an image is
                of the class whose texts are nearest to it. None: the classes of the run's own head.
            templates: with {} for the name; the features of a class are averaged.
            rerank: with `labels`, so many of the best are ordered again by the matching head and
                the first template, and come first.
            on_error: see the class.
        """
        if labels is not None:
            self._parts.abilities.need("similarity")
            images, check = listed(items, "items"), check_on_error(on_error)
            told = zero_shot.classify(self._parts, images, labels, templates, rerank, check)
            return told[0] if images.single else told
        self._parts.abilities.need("class_head")
        head = self._parts.head("class")
        # A tuple is one item here: a pair.
        several = isinstance(items, list)
        given = Items("items", items if several else [items], not several)
        found = heads.predictions(self._parts, head, given, check_on_error(on_error))
        told = [None if x is None else heads.classes(head, x["logits"]) for x in found]
        return told[0] if given.single else told

    def answer(
        self,
        images: Any,
        questions: Any,
        *,
        answers: Sequence[str] | str | None = None,
        k: int = 1,
        on_error: str = "raise",
    ) -> Any:
        """The k best answers to each question with their probabilities, the best first.

        Args:
            images, questions: of equal number, or one of them alone, which goes with all others.
            answers: to choose from; None: the list of the checkpoint, if it has one; "open": the
                decoder writes one answer. For a decoder another list is another program.
            k: answers of a question.
            on_error: see the class.
        """
        self._parts.abilities.need("answer")
        pictures, asked = listed(images, "images"), listed(questions, "questions")
        told = answering.answers(
            self._parts, pictures, asked, choose=answers, k=k, on_error=check_on_error(on_error)
        )
        return told[0] if pictures.single and asked.single else told

    def caption(
        self, images: Any, *, beams: int = 3, max_new_tokens: int = 16, on_error: str = "raise"
    ) -> Any:
        """A sentence about each image.

        Args:
            images: one or several.
            beams: sentences that are followed at once.
            max_new_tokens: of a sentence, its end included. Other numbers are other programs.
            on_error: see the class.
        """
        self._parts.abilities.need("caption")
        items = listed(images, "images")
        how = {"beams": beams, "max_new_tokens": max_new_tokens}
        told = answering.captions(self._parts, items, how, check_on_error(on_error))
        return told[0] if items.single else told

    def _features(self, found, items, kind, normalize, project, on_error):
        sized = [x if x is None or not normalize else features.unit(x) for x in found]
        width = features.width(self._parts, kind, project)
        return results(sized, items, on_error, (width,))

    def _over_images(self, fn, images, texts, on_error, what):
        """(what `fn` says of each pair, whether it is one alone, the size of each one's image)."""
        pictures, items = listed(images, "images"), listed(texts, what)
        pairs = paired(pictures, items)
        rows = features.tokens(self._parts, items, check_on_error(on_error), about_image=True)
        over = Pairs(self._parts, pictures, on_error)
        found = over.ask(fn, rows, pairs)
        sizes = [over.sizes.get(image, (0, 0)) for image, _ in pairs]
        return found, pictures.single and items.single, sizes


def _box(unit: np.ndarray, size: tuple[int, int], score: Any) -> Box:
    """A box (cx, cy, w, h) in 0..1 in pixels of an image of (height, width)."""
    cx, cy, w, h = map(float, unit)
    height, width = size

    def inside(value, limit):
        return min(max(value, 0.0), 1.0) * limit

    return Box(
        inside(cx - w / 2, width),
        inside(cy - h / 2, height),
        inside(cx + w / 2, width),
        inside(cy + h / 2, height),
        float(score),
    )
