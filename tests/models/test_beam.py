"""Greedy writing, beam search and draws, on decoders that are tables of probabilities."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_xfm import jit
from unified_fm.models.beam import Writing, write

END, LENGTH = 2, 3


class Table:
    """What may follow depends on the last two tokens: logits f[B V V V]."""

    def __init__(self, rows=2, words=3, seed=0, scale=1.5):
        self.words = words
        shape = (rows, words, words, words)
        self.logits = scale * np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        self.traced = 0

    def __call__(self, how, prompt=None, logits=None, **options):
        """(ids, scores) in NumPy, compiled."""
        logits = self.logits if logits is None else logits
        prompt = np.zeros((len(logits), 1), int) if prompt is None else np.asarray(prompt)
        found = self.program(how, **options)(jnp.asarray(logits), jnp.asarray(prompt))
        return jax.device_get(found)

    def program(self, how, **options):
        def call(logits, prompt):
            self.traced += 1

            def step(tokens, cache, count):
                del count
                rows = jnp.arange(len(logits))[:, None]
                return logits[rows, cache, tokens], tokens  # the cache is the token before

            before = prompt[:, -2:-1] if prompt.shape[1] > 1 else jnp.zeros_like(prompt)
            return write(step, before, prompt, how, **({"end": END} | options))

        return jit(call)

    def log_p(self, row, text, prompt=(0,)):
        """The log-probabilities of the tokens of a text, one by one."""
        seen, found = [0, *prompt], []
        for token in text:
            logits = self.logits[row, seen[-2], seen[-1]].astype(np.float64)
            found.append(logits[token] - np.log(np.exp(logits).sum()))
            seen.append(token)
        return found


def texts(words=3, length=LENGTH):
    """All texts that end within so many tokens."""
    for n in range(1, length + 1):
        for start in itertools.product([w for w in range(words) if w != END], repeat=n - 1):
            yield (*start, END)


def lengthened(length, alpha, penalty):
    return ((5 + length) / 6) ** alpha if penalty == "gnmt" else length**alpha


@pytest.mark.parametrize("penalty", ["length", "gnmt"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5])
def test_enough_beams_find_what_an_exhaustive_search_finds(alpha, penalty):
    table = Table()
    how = Writing(
        beams=3**LENGTH,
        max_new_tokens=LENGTH,
        min_new_tokens=0,
        length_penalty=alpha,
        penalty=penalty,
    )
    ids, scores = table(how)
    for row in range(2):
        known = {
            text: sum(table.log_p(row, text)) / lengthened(len(text), alpha, penalty)
            for text in texts()
        }
        best = sorted(known, key=known.get, reverse=True)
        assert len(best) == 7
        for place, text in enumerate(best[:3] if alpha == 1 else best[:1]):
            assert tuple(ids[row, place, : len(text)]) == text
            assert (ids[row, place, len(text) :] == END).all()
            assert scores[row, place] == pytest.approx(known[text], abs=1e-5)


def greedy(table, row, new, *, least=0, never=(), prompt=(0,)):
    text = []
    for count in range(new):
        seen = [0, *prompt, *text]
        logits = table.logits[row, seen[-2], seen[-1]].copy()
        logits[[*never, *([END] if count < least else [])]] = -np.inf
        text.append(int(logits.argmax()))
        if text[-1] == END:
            break
    return text + [END] * (new - len(text))


def test_one_beam_is_greedy():
    table = Table(rows=8, words=5)
    ids, scores = table(Writing(max_new_tokens=4, min_new_tokens=0))
    for row in range(8):
        text = greedy(table, row, 4)
        assert ids[row, 0].tolist() == text
        written = text[: text.index(END) + 1] if END in text else text
        expected = sum(table.log_p(row, written)) / len(written)
        assert scores[row, 0] == pytest.approx(expected, abs=1e-5)
    assert {END in greedy(table, row, 4) for row in range(8)} == {True, False}


@pytest.mark.parametrize("beams", [1, 3])
def test_the_end_comes_late_enough_and_some_words_never(beams):
    table = Table(rows=8, words=5)
    how = Writing(beams=beams, max_new_tokens=4, min_new_tokens=2)
    ids, scores = table(how, never=(3,))
    there = ids[scores > -np.inf]  # not as many texts as beams have ended everywhere
    assert not (there == 3).any()
    assert not (there[:, :2] == END).any()
    if beams == 1:
        assert [row.tolist() for row in ids[:, 0]] == [
            greedy(table, row, 4, least=2, never=[3]) for row in range(8)
        ]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("n", [1, 2])
def test_no_run_of_tokens_comes_twice(n, beams):
    table = Table(rows=8, words=7, scale=3.0)
    how = Writing(beams=beams, max_new_tokens=5, min_new_tokens=0, no_repeat=n)
    prompt = np.full((8, 3), [0, 4, 0])
    ids, _ = table(how, prompt)
    plain, _ = table(Writing(beams=beams, max_new_tokens=5, min_new_tokens=0), prompt)
    repeats = [runs(prompt[0], text, n) for text in plain[:, 0]]
    assert any(len(found) > len(set(found)) for found in repeats)  # otherwise nothing is shown
    for text in ids.reshape(-1, 5):
        found = runs(prompt[0], text, n)
        assert len(found) == len(set(found)), (prompt[0], text)


def runs(prompt, text, n):
    text = text.tolist()
    whole = [*prompt.tolist(), *(text[: text.index(END) + 1] if END in text else text)]
    new = [tuple(whole[s : s + n]) for s in range(len(whole) - n + 1)]
    # What the prompt repeats itself is not the decoder's doing.
    own = new[: len(prompt) - n + 1]
    return [*set(own), *new[len(own) :]]


def test_a_search_stops_when_nothing_can_become_better():
    """Row 0 ends at once with p = 0.9; nothing that goes on can be better with no penalty."""
    logits = np.log(np.full((1, 3, 3, 3), [0.09, 0.01, 0.9], np.float32))
    steps = []

    def step(tokens, cache, count):
        jax.debug.callback(lambda: steps.append(1))
        return jnp.asarray(logits)[:, 0, tokens[0]], cache

    def call(alpha):
        how = Writing(beams=2, max_new_tokens=9, min_new_tokens=0, length_penalty=alpha)
        steps.clear()
        found = jax.jit(lambda: write(step, None, jnp.zeros((1, 1), int), how, end=END))()
        jax.effects_barrier()
        return len(steps), jax.device_get(found)

    short, found = call(0.0)
    assert short == 2  # two beams: the second ends in the second step
    assert found.ids[0, 0, 0] == END and found.scores[0, 0] == pytest.approx(math.log(0.9))
    long, _ = call(1.0)
    assert long > short  # a long text might still have a better mean


def test_where_nothing_ends_the_best_text_that_was_cut_is_given():
    logits = np.zeros((1, 3, 3, 3), np.float32)
    logits[..., 1], logits[..., END] = 1.0, -np.inf
    ids, scores = Table()(Writing(beams=2, max_new_tokens=3), logits=logits)
    assert ids[0, 0].tolist() == [1, 1, 1]
    assert scores[0, 0] == pytest.approx(1 - math.log(math.e + 1), abs=1e-5)  # the mean of three


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_is_its_rows_one_by_one(beams):
    table = Table(rows=6, words=5)
    how = Writing(beams=beams, max_new_tokens=6, min_new_tokens=0)
    ids, scores = table(how)
    for row in range(6):
        alone = table(how, logits=table.logits[row : row + 1])
        np.testing.assert_array_equal(ids[row], alone[0][0])
        np.testing.assert_allclose(scores[row], alone[1][0], atol=1e-6)


def test_batches_of_one_shape_are_one_program():
    table = Table(rows=4, words=5)
    program = table.program(Writing(beams=3, max_new_tokens=6))
    prompt = jnp.zeros((4, 1), int)
    several = [jax.device_get(program(s * table.logits, prompt)).ids for s in (1.0, -1.0, 2.0)]
    assert table.traced == 1
    assert not np.array_equal(several[0], several[1])


def test_draws_have_the_probabilities_of_what_is_allowed():
    table = Table(rows=1, words=4)
    how = Writing(samples=4000, max_new_tokens=2, min_new_tokens=0)
    ids, scores = table(how, key=jax.random.key(0), never=(3,))
    logits = table.logits[0, 0, 0, :3].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    shares = np.bincount(ids[0, :, 0], minlength=3) / 4000
    np.testing.assert_allclose(shares, expected, atol=4 * math.sqrt(0.25 / 4000))
    first = ids[0, :, 0] == END  # their score is that of one token
    np.testing.assert_allclose(scores[0, first], np.log(expected[END]), atol=1e-5)
    again = table(how, key=jax.random.key(0), never=(3,))[0]
    other = table(how, key=jax.random.key(1), never=(3,))[0]
    np.testing.assert_array_equal(ids, again)
    assert not np.array_equal(ids, other)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"beams": 0}, "beams is 0; it must be at least 1"),
        ({"max_new_tokens": 4, "min_new_tokens": 4}, "possible: 0 to max_new_tokens - 1, 3"),
        ({"penalty": "gmnt"}, "did you mean 'gnmt'"),
        ({"samples": 2, "beams": 2}, "beams=2 must be 1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        Writing(**options)


def test_draws_need_a_key():
    with pytest.raises(ValueError, match="a key is needed"):
        Table()(Writing(samples=2))
