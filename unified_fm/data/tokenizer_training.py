"""Trains vocabularies, the same one of the same texts: WordPiece as BERT's, BPE as RoBERTa's."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from unified_fm.data import special_tokens, tokenizer_files
from unified_fm.data.tokenizer import Tokenizer, valid

_COVERAGE = 0.9999  # share of the training text; the characters of the rest become [UNK]
_BERT = special_tokens.BERT.names


def train_byte_pairs(texts: Iterable[str], vocab_size: int, *, progress: bool = False) -> Tokenizer:
    """Trains byte-level BPE with RoBERTa's special tokens; it can spell every text.

    Args:
        texts: the corpus, read once.
        vocab_size: the largest size; a small corpus gives fewer, for a pair must occur twice.
        progress: show the library's bars.

    Raises:
        ValueError: no room for the bytes.
    """
    names = special_tokens.ROBERTA
    # The order of RoBERTa, whose models count positions from the id of <pad> on.
    specials = [names.cls, names.pad, names.sep, names.unk, names.mask]
    letters = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(specials) + len(letters):
        raise ValueError(
            f"vocab_size {vocab_size} has no room for {len(specials)} special tokens and"
            f" {len(letters)} bytes"
        )
    inner = tokenizer_files.byte_level(models.BPE(unk_token=special_tokens.ROBERTA.unk))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=specials,
        initial_alphabet=letters,
        show_progress=progress,
    )
    inner.train_from_iterator((valid(text) for text in texts), trainer)
    return Tokenizer(inner)


def train_wordpiece(
    texts: Iterable[str], vocab_size: int, names: Sequence[str] = (), *, progress: bool = False
) -> Tokenizer:
    """Trains a WordPiece vocabulary of lower-case letters without accents; `save` keeps it.

    Args:
        texts: the corpus, read twice; an iterator, which can be read once only, is kept in memory.
        vocab_size: the largest size; a small corpus may give fewer.
        names: words that must be one token each (the names of the demo's objects).
        progress: show the library's bars.

    Raises:
        ValueError: a name that is more than one word, or a vocabulary too small for the names.
    """
    blank = tokenizer_files.wordpiece({}, lowercase=True)
    wanted = []
    for name in names:
        words = blank.pre_tokenizer.pre_tokenize_str(blank.normalizer.normalize_str(name))
        if len(words) != 1:
            raise ValueError(f"name {name!r} is {len(words)} words; a single token needs one word")
        wanted.append(words[0][0])
    wanted = list(dict.fromkeys(wanted))
    if isinstance(texts, Iterator):
        texts = list(texts)
    letters, others = _letters(blank, texts, limit=max(64, vocab_size // 8))
    if vocab_size < len(_BERT) + len(letters) + len(wanted):
        raise ValueError(
            f"vocab_size {vocab_size} has no room for {len(_BERT)} special tokens,"
            f" {len(letters)} letters and {len(wanted)} names"
        )
    limit: dict[str, Any] = {}
    if any(_goes_on(blank, letter) for letter in others):
        limit = {"limit_alphabet": 0}
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size - len(wanted),
        # Given in this order, letters get fixed ids, and ties between merges the same winner: the
        # library alone trains another vocabulary at each call. So does a letter that is not given
        # and is found inside a word: then there are none but those.
        special_tokens=[*_BERT.values(), *letters],
        **limit,
        show_progress=progress,
    )
    blank.train_from_iterator((valid(text) for text in texts), trainer)
    trained = blank.get_vocab()
    tokens = sorted(trained, key=trained.__getitem__)
    tokens += [name for name in wanted if name not in trained]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return Tokenizer(tokenizer_files.wordpiece(vocabulary, lowercase=True))


def _letters(
    blank: tokenizers.Tokenizer, texts: Iterable[str], limit: int
) -> tuple[list[str], list[str]]:
    """The letters that make up nearly all of the texts, as first pieces and as later pieces; and
    the other letters."""
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(blank.normalizer.normalize_str(valid(text)))
    frequent = sorted(
        (letter for letter in counts if not letter.isspace()),
        key=lambda letter: (-counts[letter], letter),
    )
    covered = np.cumsum([counts[letter] for letter in frequent], dtype=np.int64)
    needed = 1 + int(np.searchsorted(covered, _COVERAGE * covered[-1])) if frequent else 0
    needed = min(needed, limit)
    letters = sorted(frequent[:needed])
    # Punctuation is a word of its own, never a later piece.
    later = [letter for letter in letters if letter.isalnum() or _goes_on(blank, letter)]
    return [*letters, *(f"##{letter}" for letter in later)], frequent[needed:]


def _goes_on(blank: tokenizers.Tokenizer, letter: str) -> bool:
    """Whether a letter can stand inside a word."""
    return len(blank.pre_tokenizer.pre_tokenize_str(f"a{letter}a")) == 1
