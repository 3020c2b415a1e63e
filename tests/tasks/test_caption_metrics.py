"""Captions: the vectors of the official evaluation, and each metric by its definition."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from unified_fm.data.official import WrongFile
from unified_fm.tasks._metrics import bleu, captions, cider, ngrams, ptb, rouge
from unified_fm.tasks._scoring import scorers

REFERENCES = [
    ["a man riding a wave on a surfboard", "a surfer rides a big wave", "man surfing in the ocean"],
    ["two dogs play in the snow", "a pair of dogs running through snow"],
    ["a red bus parked on the street", "the bus is red", "a double decker bus"],
]
SAID = ["a man riding a wave", "two dogs in the snow", "a man riding a wave"]


def test_13_2_the_three_images():
    found = captions.measures(SAID, REFERENCES)
    values = {name: statistic.value for name, statistic in found.items()}
    assert values == pytest.approx(
        {
            "cider": 1.7939811463,
            "bleu1": 0.7333333332,
            "bleu2": 0.6540472289,
            "bleu3": 0.5750141967,
            "bleu4": 0.5017398686,
            "rouge_l": 0.6198975804,
        },
        abs=1e-10,
    )
    np.testing.assert_allclose(
        found["rouge_l"].per_example, [0.7384987893, 0.8944281525, 0.2267657993], atol=1e-10
    )
    np.testing.assert_allclose(
        found["cider"].per_example, [2.6762894802, 2.7056539588, 0.0], atol=1e-10
    )


def test_13_2_a_perfect_caption_is_no_ten():
    first = [references[0] for references in REFERENCES]
    found = captions.measures(first, REFERENCES)["cider"].per_example
    np.testing.assert_allclose(found, [3.73132288, 5.49491552, 3.95964591], atol=1e-8)


def test_13_2_one_image_has_no_cider_and_an_empty_caption_nothing():
    assert captions.metrics(SAID[:1], REFERENCES[:1])["cider"] == 0
    found = captions.measures(["", *SAID[1:]], REFERENCES)
    assert found["cider"].per_example[0] == 0
    assert found["rouge_l"].per_example[0] == 0


PTB = [
    ("A man's hat; two dogs' toys.", "a man 's hat two dogs toys"),
    (
        'A "stop" sign (red) [old] {x}',
        "a stop sign -lrb- red -rrb- -lsb- old -rsb- -lcb- x -rcb-",
    ),
    ("He can't, won't & doesn't!!", "he ca n't wo n't & does n't !!"),
    ("3/4 of 1,000 people... wow", "3/4 of 1,000 people wow"),
    ("it is 10:30 a.m.", "it is 10:30 a.m."),
    ("T-shirt, black-and-white cat/dog", "t-shirt black-and-white cat/dog"),
    ("a 9th-century church \u2013 nice", "a 9th-century church nice"),
    ("A sign that reads 'hello'", "a sign that reads hello"),
    ("cannot gonna", "can not gon na"),
    ("$5.00 & 50% off!", "$ 5.00 & 50 % off"),
    ("the U.S. Mail", "the u.s. mail"),
    ("", ""),
]
# More that the jar of pycocoevalcap 1.2 gave.
MORE = [
    ("Two cats?\nOne dog!", "two cats one dog"),
    ("it\u2019s \u201cfine\u201d", "it 's fine"),
    ("a bull's-eye", "a bull 's eye"),
    ("the '80s and '90s", "the '80s and '90s"),
    ("a Q&A in b&w", "a q&a in b & w"),
    ("$7.5million", "$ 7.5 million"),
    ("what a fan!! .. tom", "what a fan !! tom"),
    ("9\u00bd weeks", "9 1/2 weeks"),
    ("cats, dogs, etc.", "cats dogs etc."),
    ("by Dr. Who vs. a Mr.", "by dr. who vs. a mr."),
    ("it was good....really", "it was good really"),
    ("this movie.how so", "this movie.how so"),
    ("\u20ac5 or \u00a36", "$ 5 or # 6"),
    ("don't-care y'all o'clock", "do n't care y' all o'clock"),
    ("a 10-year-old's 1/2 cup", "a 10-year-old 's 1/2 cup"),
    ("3.5/10, 12/31/2004", "3.5 / 10 12/31/2004"),
    ("4:30p.m. on Jan. 5", "4:30 p.m. on jan. 5"),
    ("No. 5 bus", "no. 5 bus"),
    ("a #1 fan @ home *** now", "a # 1 fan @ home *** now"),
    ("rock 'n' roll", "rock 'n' roll"),
    ("a 5'10\" man", "a 5 10 man"),
    ("A B C. d", "a b c. d"),
    ("I'm they've we'd you'll it's can't", "i 'm they 've we 'd you 'll it 's ca n't"),
]


@pytest.mark.parametrize(("caption", "expected"), PTB + MORE)
def test_13_3_words(caption, expected):
    assert " ".join(ptb.tokenize(caption)) == expected


WORDS = ["a", "dog", "cat", "runs", "the", "red", "blue", "sits", "on", "in", "grass", "bus"]


def random_captions(seed, images=30, words=WORDS):
    rng = np.random.default_rng(seed)

    def caption():
        return rng.choice(words, rng.integers(1, 12)).tolist()

    references = [[caption() for _ in range(rng.integers(1, 6))] for _ in range(images)]
    return [caption() for _ in range(images)], references


def test_cider_is_its_formula_on_random_captions():
    said, references = random_captions(0)
    df = Counter(
        g for captions in references for g in {g for c in captions for g in grams(c, 1, 5)}
    )

    def vector(words, n):
        counts = Counter(grams(words, n, n + 1))
        return {g: c * (math.log(len(said)) - math.log(max(1, df[g]))) for g, c in counts.items()}

    def likeness(words, reference, n):
        c, r = vector(words, n), vector(reference, n)
        norm = math.sqrt(sum(x * x for x in c.values()) * sum(x * x for x in r.values()))
        dot = sum(min(x, r.get(g, 0)) * r.get(g, 0) for g, x in c.items())
        apart = max(0, len(words) - 1) - max(0, len(reference) - 1)
        return math.exp(-(apart**2) / 72) * (dot / norm if norm else 0)

    expected = [
        10 * np.mean([[likeness(words, r, n) for n in (1, 2, 3, 4)] for r in captions])
        for words, captions in zip(said, references, strict=True)
    ]
    np.testing.assert_allclose(cider.scores(said, references), expected, atol=1e-12)


def grams(words, shortest, end):
    return [
        tuple(words[k : k + n]) for n in range(shortest, end) for k in range(len(words) - n + 1)
    ]


def test_bleu_is_its_formula_on_random_captions():
    said, references = random_captions(1, words=WORDS[:4])
    lengths = [
        min((abs(len(r) - len(w)), len(r)) for r in them)[1]
        for w, them in zip(said, references, strict=True)
    ]
    total, wanted = sum(map(len, said)), sum(lengths)
    penalty = min(1.0, math.exp(1 - wanted / total))
    product = 1.0
    for n in (1, 2, 3, 4):
        right = guessed = 0
        for words, them in zip(said, references, strict=True):
            most = Counter()
            for reference in them:
                most |= Counter(grams(reference, n, n + 1))
            right += (Counter(grams(words, n, n + 1)) & most).total()
            guessed += max(0, len(words) - n + 1)
        product *= right / guessed
        found = bleu.measures(said, references)[f"bleu{n}"].value
        assert found == pytest.approx(penalty * product ** (1 / n), rel=1e-6)


def test_rouge_is_its_formula_by_all_subsequences():
    said, references = random_captions(2, images=8)

    def common(a, b):
        return max(
            n
            for n in range(min(len(a), len(b)) + 1)
            if set(itertools.combinations(a, n)) & set(itertools.combinations(b, n))
        )

    for words, them in zip(said, references, strict=True):
        found = [(common(words, r), len(r)) for r in them]
        p, r = max(n / len(words) for n, _ in found), max(n / total for n, total in found)
        expected = (1 + 1.44) * p * r / (r + 1.44 * p) if p * r else 0
        assert rouge.score(words, them) == pytest.approx(expected)


def test_a_reward_uses_frequencies_of_a_corpus_never_of_its_batch(tmp_path):
    said, references = random_captions(3)
    corpus = ngrams.frequencies(references)
    alone = [cider.scores([w], [r], corpus)[0] for w, r in zip(said, references, strict=True)]
    np.testing.assert_allclose(alone, cider.scores(said, references))
    corpus.save(tmp_path / "words.json")
    back = ngrams.load_frequencies(tmp_path / "words.json")
    assert (back, back.hash) == (corpus, corpus.hash)


def test_a_pickle_of_frequencies_is_refused_and_so_is_another_file(tmp_path):
    with pytest.raises(WrongFile, match=r"coco-train-words\.p is a pickle.*Give frequencies"):
        ngrams.load_frequencies(tmp_path / "coco-train-words.p")
    (tmp_path / "words.json").write_text("{}")
    with pytest.raises(WrongFile, match="has no field format"):
        ngrams.load_frequencies(tmp_path / "words.json")


def test_an_image_without_references_is_refused():
    with pytest.raises(ValueError, match="1 images have no reference; the first is number 1"):
        captions.metrics(["a", "b"], [["a"], []])


def test_chance_is_the_caption_of_another_image():
    expected = captions.metrics([r[0] for r in (*REFERENCES[1:], REFERENCES[0])], REFERENCES)
    assert captions.chance(REFERENCES) == expected


def test_one_image_has_no_chance_and_says_so():
    with pytest.raises(ValueError, match="there is one image alone"):
        captions.chance([["a dog"]])
    scored = scorers.captions_scored(["a dog"], [["a dog"]])
    assert scored.chance == {} and scored.statistics["cider"].value == 0
    assert any("one image alone: CIDEr-D is 0" in note for note in scored.notes)
