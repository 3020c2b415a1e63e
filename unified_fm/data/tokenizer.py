"""Text to token ids: WordPiece (BERT), byte-level BPE (RoBERTa), and plain bytes for smoke tests.

Everything is read from local files through the `tokenizers` library; nothing is downloaded.
"""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from unified_fm import files

_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ROBERTA = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
# Characters given to the tokenizer per token wanted: more than any real text needs, and a text of
# 10 MB costs no more than a page.
_CHARACTERS_PER_TOKEN = 64
_ID_ROOM = 1.1  # ids per entry: a few may be unused
_COVERAGE = 0.9999  # share of the training text; the characters of the rest become [UNK]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """One text, or a pair of them, as arrays of the length asked for.

    Attributes:
        ids: i32[L]; cls, pieces, sep, padding; of a pair cls, pieces, sep (RoBERTa: twice), pieces,
            sep, padding.
        mask: bool[L]; True = real token (cls and sep included).
        inside: bool[L]; True on pieces; False on cls, sep and padding.
        word_start: bool[L]; True at the first piece of each word.
        segments: i32[L]; 1 on the second text of a pair and its sep in BERT, 0 elsewhere.
        length: the number of real tokens, cls and sep included.
    """

    ids: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    word_start: np.ndarray
    segments: np.ndarray
    length: int


class Tokenizer:
    """Encodes and decodes text; the same for WordPiece and byte-level BPE.

    Attributes:
        vocab_size: ids are below it.
        pad_id, unk_id, cls_id, sep_id, mask_id: ids of the special tokens.
        is_special: bool[V]; True for these five.
        normal_ids: i32[V - 5]; all the others, from which random replacements are drawn.
    """

    def __init__(self, inner: tokenizers.Tokenizer):
        """Wraps a tokenizer of the `tokenizers` library.

        Raises:
            ValueError: the vocabulary has neither BERT's nor RoBERTa's special tokens, or ids far
                beyond the number of its entries.
        """
        names = _special_names(inner)
        _check_ids(inner.get_vocab(with_added_tokens=True))
        inner.no_padding()
        inner.no_truncation()
        # A text that contains "[MASK]" or "</s>" must be read as these characters.
        inner.add_special_tokens(list(names.values()))
        inner.encode_special_tokens = True
        self._inner = inner
        vocabulary = inner.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocabulary.values())
        ids = {role: vocabulary[name] for role, name in names.items()}
        self.pad_id, self.unk_id, self.mask_id = ids["pad"], ids["unk"], ids["mask"]
        self.cls_id, self.sep_id = ids["cls"], ids["sep"]
        self.is_special = np.zeros(self.vocab_size, bool)
        self.is_special[list(ids.values())] = True
        self._specials = frozenset(ids.values())
        self._has_segments = names is _BERT  # it tells the texts of a pair apart by them
        self._between = 1 if self._has_segments else 2  # seps between the two
        self.normal_ids = np.flatnonzero(~self.is_special).astype(np.int32)

    def encode(self, text: str, max_len: int, second: str | None = None) -> Encoded:
        """Encodes as cls, pieces, sep; cuts to `max_len` tokens and pads to it.

        Any string survives: it is cut before tokenising, and lone surrogates become "?".

        Args:
            text: the text, or the first of a pair.
            max_len: L.
            second: the second text of a pair. The longer one is cut first, token by token; of two
                that are cut to the same length but for one token, the longer keeps that token, and
                of equally long ones the second.

        Raises:
            ValueError: `max_len` leaves no room for cls and sep.
        """
        between = 0 if second is None else self._between
        if max_len < 2 + between:
            what = "cls and sep alone need" if second is None else "cls and sep of a pair need"
            raise ValueError(f"max_len is {max_len}; {what} {2 + between}")
        texts = [self._pieces(text, max_len)]
        lengths = [len(texts[0][0])]
        if second is not None:
            texts.append(self._pieces(second, max_len))
            lengths.append(len(texts[1][0]))
        lengths = _fitted(lengths, max_len - 2 - between)

        ids = np.full(max_len, self.pad_id, np.int32)
        mask, inside, word_start = np.zeros((3, max_len), bool)
        segments = np.zeros(max_len, np.int32)
        ids[0], at = self.cls_id, 1
        for (content, words), length in zip(texts, lengths, strict=True):
            start = at if at == 1 else at + between - 1  # behind the sep that each text ends with
            ids[at:start] = self.sep_id
            at = start + length
            ids[start : at + 1] = [*self._without_specials(content[:length]), self.sep_id]
            inside[start:at] = True
            word_start[start:at] = [
                a != b for a, b in zip(words[:length], [-1, *words], strict=False)
            ]
            at += 1
        if second is not None and self._has_segments:
            segments[start:at] = 1
        mask[:at] = True
        return Encoded(
            ids=ids,
            mask=mask,
            inside=inside,
            word_start=word_start,
            segments=segments,
            length=at,
        )

    def _pieces(self, text: str, max_len: int) -> tuple[list[int], list[int | None]]:
        """The ids of a text, and the word that each is of."""
        text = text[: _CHARACTERS_PER_TOKEN * max_len]
        pieces = self._inner.encode(_valid(text), add_special_tokens=False)
        return pieces.ids, pieces.word_ids

    def _without_specials(self, content: list[int]) -> list[int]:
        if self._specials.isdisjoint(content):
            return content
        return [self.unk_id if i in self._specials else i for i in content]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`, without special tokens."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=True)

    def token(self, token_id: int) -> str:
        """The piece with this id, as the vocabulary spells it ("##ing", "Ġthe"); "" if unused."""
        return self._inner.id_to_token(int(token_id)) or ""

    def token_id(self, token: str) -> int | None:
        """The id of a piece of the vocabulary; None if there is no such piece."""
        return self._inner.token_to_id(token)

    def save(self, path: str | os.PathLike) -> pathlib.Path:
        """Writes `tokenizer.json` (in the folder `path`, or at `path` if it ends so); atomic."""
        path = pathlib.Path(path)
        if path.suffix != ".json":
            path = path / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, self.text())
        return path

    def text(self) -> str:
        """All of it as JSON: what `tokenizer.json` holds."""
        return self._inner.to_str(pretty=True)


def load(path: str | os.PathLike) -> Tokenizer:
    """Loads a tokenizer from local files.

    Args:
        path: "bytes" (no file: bytes and RoBERTa's special tokens, 261 ids); or `tokenizer.json`,
            which may be in a bucket;
            or `vocab.txt` (WordPiece; lower-cases unless the vocabulary has capitals); or
            `vocab.json` with `merges.txt` beside it (byte-level BPE); or a folder with one of them.

    Raises:
        FileNotFoundError: none of these is there; the message lists what was looked for.
        ValueError: a file is not what its name says, or lacks special tokens.
    """
    return _load(os.fspath(path))


@functools.lru_cache(maxsize=8)
def _load(path: str) -> Tokenizer:
    if path == "bytes":
        return Tokenizer(_bytes())
    if "://" in path:  # one `tokenizer.json` in a bucket
        return Tokenizer(tokenizers.Tokenizer.from_str(epath.Path(path).read_text()))
    found = _find(pathlib.Path(path))
    try:
        loaded = Tokenizer(_open(found))
        loaded.encode("a \U0010ffff", 8)  # one without a token for unknown words fails only here
        return loaded
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise ValueError(f"{found} is not a tokenizer: {error}") from error


def _open(found: pathlib.Path) -> tokenizers.Tokenizer:
    if found.suffix == ".txt":
        return _wordpiece(_read_vocabulary(found))
    if found.name.endswith("vocab.json"):
        merges = found.with_name(found.name.replace("vocab.json", "merges.txt"))
        if not merges.exists():
            raise FileNotFoundError(f"{found} needs {merges.name} beside it; there is none")
        return _byte_level(models.BPE.from_file(str(found), str(merges)))
    return tokenizers.Tokenizer.from_file(str(found))


def train_wordpiece(texts: Iterable[str], vocab_size: int, names: Sequence[str] = ()) -> Tokenizer:
    """Trains a WordPiece vocabulary of lower-case letters without accents; `save` keeps it.

    Args:
        texts: the corpus.
        vocab_size: the largest size; a small corpus may give fewer.
        names: words that must be one token each (the names of the demo's objects).

    Raises:
        ValueError: a name that is more than one word, or a vocabulary too small for the names.
    """
    blank = _wordpiece({}, lowercase=True)
    wanted = []
    for name in names:
        words = blank.pre_tokenizer.pre_tokenize_str(blank.normalizer.normalize_str(name))
        if len(words) != 1:
            raise ValueError(f"name {name!r} is {len(words)} words; a single token needs one word")
        wanted.append(words[0][0])
    wanted = list(dict.fromkeys(wanted))
    texts = [_valid(text) for text in texts]
    letters = _letters(blank, texts, limit=max(64, vocab_size // 8))
    if vocab_size < len(_BERT) + len(letters) + len(wanted):
        raise ValueError(
            f"vocab_size {vocab_size} has no room for {len(_BERT)} special tokens,"
            f" {len(letters)} letters and {len(wanted)} names"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size - len(wanted),
        # Given in this order, letters get fixed ids, and ties between merges the same winner: the
        # library alone trains another vocabulary at each call.
        special_tokens=[*_BERT.values(), *letters],
        show_progress=False,
    )
    blank.train_from_iterator(texts, trainer)
    trained = blank.get_vocab()
    tokens = sorted(trained, key=trained.__getitem__)
    tokens += [name for name in wanted if name not in trained]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return Tokenizer(_wordpiece(vocabulary, lowercase=True))


def _letters(blank: tokenizers.Tokenizer, texts: Sequence[str], limit: int) -> list[str]:
    """The letters that make up nearly all of the texts, as first pieces and as later pieces."""
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(blank.normalizer.normalize_str(text))
    frequent = sorted(
        (letter for letter in counts if not letter.isspace()),
        key=lambda letter: (-counts[letter], letter),
    )
    covered = np.cumsum([counts[letter] for letter in frequent], dtype=np.int64)
    needed = 1 + int(np.searchsorted(covered, _COVERAGE * covered[-1])) if frequent else 0
    letters = sorted(frequent[: min(needed, limit)])
    # Punctuation is a word of its own, never a later piece.
    return [*letters, *(f"##{letter}" for letter in letters if letter.isalnum())]


def _fitted(lengths: list[int], room: int) -> list[int]:
    """The lengths of one text or two when they are cut to `room` tokens, the longer one first."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    first, second = lengths
    least = min(first, second, room // 2)
    return [least, room - least] if first <= second else [room - least, least]


def _valid(text: str) -> str:
    """Lone surrogates, which no UTF-8 can carry, become "?"."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _special_names(inner: tokenizers.Tokenizer) -> dict[str, str]:
    vocabulary = inner.get_vocab(with_added_tokens=True)
    for names in (_BERT, _ROBERTA):
        if all(name in vocabulary for name in names.values()):
            return names
    missing = [
        ", ".join(name for name in names.values() if name not in vocabulary)
        for names in (_BERT, _ROBERTA)
    ]
    raise ValueError(
        f"the vocabulary of {len(vocabulary)} tokens lacks {missing[0]} (as in BERT), and"
        f" {missing[1]} (as in RoBERTa); it must have all of one set"
    )


def _check_ids(vocabulary: dict[str, int]) -> None:
    """Refuses ids that a model would need rows for, and this class memory, without having words."""
    token = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[token] >= len(vocabulary) * _ID_ROOM:
        raise ValueError(
            f"{token[:40]!r} has the id {vocabulary[token]} in a vocabulary of {len(vocabulary)}"
            f" entries; ids may go to {int(len(vocabulary) * _ID_ROOM)} (a tenth more)"
        )


def _find(path: pathlib.Path) -> pathlib.Path:
    if path.is_dir():
        names = ("tokenizer.json", "vocab.txt", "vocab.json")
        for name in names:
            if (path / name).exists():
                return path / name
        raise FileNotFoundError(f"no tokenizer in {path}: looked for {', '.join(names)}")
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer at {path}: give a tokenizer.json, vocab.txt, vocab.json (with"
            f' merges.txt beside it), a folder with one of them, or "bytes"'
        )
    if path.suffix not in (".txt", ".json"):
        raise ValueError(f"{path} ends in {path.suffix!r}; a tokenizer file ends in .txt or .json")
    return path


def _read_vocabulary(path: pathlib.Path) -> dict[str, int]:
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    tokens = [line.rstrip("\r") for line in lines]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise ValueError(f"{path} has {twice!r} more than once")
    return vocabulary


def _wordpiece(vocabulary: dict[str, int], lowercase: bool | None = None) -> tokenizers.Tokenizer:
    if lowercase is None:  # a cased vocabulary shows its capitals
        specials = set(_BERT.values())
        normal = (t for t in vocabulary if t not in specials and not t.startswith("[unused"))
        lowercase = not any(token != token.lower() for token in normal)
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=_BERT["unk"]))
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def _bytes() -> tokenizers.Tokenizer:
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: index for index, token in enumerate([*tokens, "<mask>"])}
    return _byte_level(models.BPE(vocabulary, [], unk_token="<unk>"))
