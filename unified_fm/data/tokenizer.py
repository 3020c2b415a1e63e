"""Text to token ids: WordPiece, byte-level BPE, CLIP's BPE, SentencePiece, and plain bytes.

Everything is read from local files through the `tokenizers` library; nothing is downloaded, but for
`hf:OWNER/NAME`, which asks for it.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

from unified_fm import buckets, files
from unified_fm.data import special_tokens, tokenizer_files

# Characters given to the tokenizer per token wanted: more than any real text needs, and a text of
# 10 MB costs no more than a page.
_CHARACTERS_PER_TOKEN = 64
_ID_ROOM = 1.1  # ids per entry: a few may be unused
_SPACE = "\u2581"  # begins a word in SentencePiece
# Names of objects come again and again, captions hardly ever: so many short texts are kept encoded.
_SHORT, _KEPT = 32, 4096  # characters, texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """One text, or a pair of them, as arrays of the length asked for; they may be read-only.

    Attributes:
        ids: i32[L]; cls, pieces, sep, padding; of a pair cls, pieces, sep (RoBERTa: twice), pieces,
            sep, padding.
        mask: bool[L]; True = real token (cls and sep included).
        inside: bool[L]; True on pieces; False on cls, sep and padding.
        word_start: bool[L]; True at the first piece of each word.
        segments: i32[L]; 1 on the second text of a pair and its sep in BERT, 0 elsewhere.
        length: the number of real tokens, cls and sep included.
        cut: whether a part of the text had no room.
    """

    ids: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    word_start: np.ndarray
    segments: np.ndarray
    length: int
    cut: bool


class Pieces(NamedTuple):
    """A whole text in pieces.

    Attributes:
        ends: i64[n]; where each piece ends, in characters of the text.
        word_start: bool[n]; True at the first piece of each word.
    """

    ends: np.ndarray
    word_start: np.ndarray


class Tokenizer:
    """Encodes and decodes text; the same for all kinds.

    Attributes:
        vocab_size: ids are below it.
        pad_id, unk_id, cls_id, sep_id: ids of the special tokens; in CLIP three are one.
        has_mask: whether there is a mask token; CLIP has none.
        is_special: bool[V]; True for these.
        normal_ids: i32[V - 5]; all the others, from which random replacements are drawn.
    """

    def __init__(self, inner: tokenizers.Tokenizer):
        """Wraps a tokenizer of the `tokenizers` library.

        Raises:
            ValueError: the vocabulary has the special tokens of no family known, or ids far beyond
                the number of its entries.
        """
        specials = special_tokens.of(inner)
        _check_ids(inner.get_vocab(with_added_tokens=True))
        inner.no_padding()
        inner.no_truncation()
        # A text that contains "[MASK]" or "</s>" must be read as these characters.
        inner.add_special_tokens(list(dict.fromkeys(specials.names.values())))
        inner.encode_special_tokens = True
        self._inner = inner
        vocabulary = inner.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocabulary.values())
        ids = {role: vocabulary[name] for role, name in specials.names.items()}
        self.pad_id, self.unk_id = ids["pad"], ids["unk"]
        self.cls_id, self.sep_id = ids["cls"], ids["sep"]
        self.has_mask = "mask" in ids
        self._mask_id, self._family = ids.get("mask", -1), specials.family
        self.is_special = np.zeros(self.vocab_size, bool)
        self.is_special[list(ids.values())] = True
        self._specials = frozenset(ids.values())
        self._has_segments = specials.segments  # it tells the texts of a pair apart by them
        self._between = 1 if self._has_segments else 2  # seps between the two
        self.normal_ids = np.flatnonzero(~self.is_special).astype(np.int32)
        self._opens = _word_openers(inner, vocabulary, self.vocab_size)
        self._kept = functools.lru_cache(maxsize=_KEPT)(self._to_keep)

    @property
    def extra_of_a_part(self) -> int:
        """Tokens that a part of a text may have more by itself: a space, in SentencePiece."""
        return int(self._opens is not None)

    @property
    def seps_of_a_pair(self) -> int:
        """How many seps a pair of texts has in all."""
        return 1 + self._between

    @property
    def mask_id(self) -> int:
        """The id of the mask token. Raises ValueError: there is none (`has_mask`)."""
        if not self.has_mask:
            raise ValueError(
                f"a vocabulary as {self._family}'s has no mask token: it hides no word"
            )
        return self._mask_id

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
        if second is None and len(text) <= _SHORT:
            return self._kept(text, max_len)
        return self._encode(text, max_len, second)

    def _to_keep(self, text: str, max_len: int) -> Encoded:
        found = self._encode(text, max_len)
        for array in (found.ids, found.mask, found.inside, found.word_start, found.segments):
            array.setflags(write=False)
        return found

    def _encode(self, text: str, max_len: int, second: str | None = None) -> Encoded:
        between = 0 if second is None else self._between
        if max_len < 2 + between:
            what = "cls and sep alone need" if second is None else "cls and sep of a pair need"
            raise ValueError(f"max_len is {max_len}; {what} {2 + between}")
        texts = [text] if second is None else [text, second]
        pieces = [self._pieces(each, max_len) for each in texts]
        lengths = [len(ids) for ids, _ in pieces]
        fitted = _fitted(lengths, max_len - 2 - between)
        cut = fitted != lengths or any(len(each) > _most_characters(max_len) for each in texts)
        return self._row(pieces, fitted, max_len, self._between, cut)

    def encode_row(self, texts: Sequence[str], max_len: int) -> Encoded:
        """Encodes several texts as one row: cls, then each text and a sep; the last may be cut.

        Raises:
            ValueError: `max_len` leaves no room for a token of each text.
        """
        room = max_len - 1 - len(texts)
        if room < len(texts):
            raise ValueError(f"max_len is {max_len}; {len(texts)} texts need {1 + 2 * len(texts)}")
        pieces, lengths, cut = [self._pieces(text, max_len) for text in texts], [], False
        for ids, _ in pieces:
            lengths.append(min(len(ids), room))
            cut = cut or lengths[-1] < len(ids)
            room -= lengths[-1]
        return self._row(pieces, lengths, max_len, 1, cut)

    def _row(
        self,
        pieces: Sequence[tuple[list[int], Sequence[bool]]],
        lengths: Sequence[int],
        max_len: int,
        between: int,
        cut: bool,
    ) -> Encoded:
        """The arrays of texts of these lengths, with so many seps between two of them."""
        ids = np.full(max_len, self.pad_id, np.int32)
        mask, inside, word_start = np.zeros((3, max_len), bool)
        segments = np.zeros(max_len, np.int32)
        ids[0], at, start = self.cls_id, 1, 1
        for (content, opens), length in zip(pieces, lengths, strict=True):
            start = at if at == 1 else at + between - 1  # behind the sep that each text ends with
            ids[at:start] = self.sep_id
            at = start + length
            ids[start : at + 1] = [*self._without_specials(content[:length]), self.sep_id]
            inside[start:at] = True
            word_start[start:at] = opens[:length]
            at += 1
        if len(pieces) == 2 and self._has_segments:
            segments[start:at] = 1
        mask[:at] = True
        return Encoded(
            ids=ids,
            mask=mask,
            inside=inside,
            word_start=word_start,
            segments=segments,
            length=at,
            cut=cut,
        )

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """Where the pieces of whole texts end, and which begin words; several threads.

        Texts of more than some 100,000 characters are better given in parts.
        """
        found = self._inner.encode_batch([valid(text) for text in texts], add_special_tokens=False)
        return [self._whole(one) for one in found]

    def _whole(self, found: tokenizers.Encoding) -> Pieces:
        ends = np.array([end for _, end in found.offsets], np.int64)
        opens = np.ones(len(ends), bool)
        if self._opens is not None:
            opens[1:] = self._opens[found.ids[1:]]
        else:
            words = np.array(found.word_ids, np.int64)
            opens[1:] = words[1:] != words[:-1]
        return Pieces(ends, opens)

    def _pieces(self, text: str, max_len: int) -> tuple[list[int], Sequence[bool]]:
        """The ids of a text, and which of them begin a word."""
        text = text[: _most_characters(max_len)]
        pieces = self._inner.encode(valid(text), add_special_tokens=False)
        return pieces.ids, self._word_starts(pieces)

    def _word_starts(self, pieces: tokenizers.Encoding) -> Sequence[bool]:
        if self._opens is not None:  # a piece says itself whether it begins a word
            opens = self._opens[pieces.ids].tolist()
            return [True, *opens[1:]] if opens else opens
        words = pieces.word_ids
        return [a != b for a, b in zip(words, [-1, *words], strict=False)]

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

    def __reduce__(self):
        """A copy, as a worker process gets one: the library's own forgets what is no special token
        in a text (`encode_special_tokens`)."""
        return _copied, (self.text(),)


def load(path: str | os.PathLike) -> Tokenizer:
    """Loads a tokenizer from local files.

    Args:
        path: "bytes" (no file: bytes and RoBERTa's special tokens, 261 ids); or `tokenizer.json`;
            or `vocab.txt` (WordPiece; lower-cases as `tokenizer_config.json` beside it says, and
            without one unless the vocabulary has capitals); or
            `vocab.json` with `merges.txt` beside it (byte-level BPE, or CLIP's, by its special
            tokens); or OpenAI's `bpe_simple_vocab_16e6.txt.gz`; or a SentencePiece `.model`; or a
            folder with one of them, `package:NAME/FOLDER`, or `hf:OWNER/NAME`. Files and folders
            may be in a bucket.

    Raises:
        FileNotFoundError: none of these is there; the message lists what was looked for.
        ValueError: a file is not what its name says, or lacks special tokens.
    """
    return _load(os.fspath(path))


@functools.lru_cache(maxsize=8)
def _load(path: str) -> Tokenizer:
    if path == "bytes":
        return Tokenizer(tokenizer_files.plain_bytes())
    if buckets.holds(path):
        with tokenizer_files.fetched(path) as found:
            return _read(found)
    return _read(tokenizer_files.find(path))


def _read(found: pathlib.Path) -> Tokenizer:
    try:
        loaded = Tokenizer(tokenizer_files.read(found))
        loaded.encode("a \U0010ffff", 8)  # one without a token for unknown words fails only here
        return loaded
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise ValueError(f"{found} is not a tokenizer: {error}") from error


def _fitted(lengths: list[int], room: int) -> list[int]:
    """The lengths of one text or two when they are cut to `room` tokens, the longer one first."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    first, second = lengths
    least = min(first, second, room // 2)
    return [least, room - least] if first <= second else [room - least, least]


def valid(text: str) -> str:
    """Lone surrogates, which no UTF-8 can carry, become "?"."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _check_ids(vocabulary: dict[str, int]) -> None:
    """Refuses ids that a model would need rows for, and this class memory, without having words."""
    token = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[token] >= len(vocabulary) * _ID_ROOM:
        raise ValueError(
            f"{token[:40]!r} has the id {vocabulary[token]} in a vocabulary of {len(vocabulary)}"
            f" entries; ids may go to {int(len(vocabulary) * _ID_ROOM)} (a tenth more)"
        )


def _copied(text: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text))


def _most_characters(max_len: int) -> int:
    return _CHARACTERS_PER_TOKEN * max_len


def _word_openers(
    inner: tokenizers.Tokenizer, vocabulary: dict[str, int], size: int
) -> np.ndarray | None:
    """bool[V]: the pieces that begin a word, where they say so themselves (SentencePiece).

    The library counts a text as one word where its pre-tokenizer does not part it, as in Llama's.
    """
    if _SPACE not in f"{inner.decoder!r}":
        return None
    opens = np.zeros(size, bool)
    opens[[number for piece, number in vocabulary.items() if piece.startswith(_SPACE)]] = True
    return opens
