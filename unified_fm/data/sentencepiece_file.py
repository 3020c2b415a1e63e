"""SentencePiece's `.model` files, unigram and BPE, as tokenizers of the `tokenizers` library.

The file is a protocol buffer of four kinds of fields, read here without that library. A piece keeps
its number; a special token that the file lacks is put behind the last one.
"""

import dataclasses
import logging
import pathlib
import re
import struct
from collections.abc import Iterator

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from unified_fm.data import special_tokens
from unified_fm.data.special_tokens import Specials

_log = logging.getLogger(__name__)

SPACE = "\u2581"  # what a space is written as
_UNIGRAM, _BPE = 1, 2
_KINDS = {3: "words", 4: "characters"}
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
# Its pieces' numbers are not those of the models that come with it.
_RENUMBERED = "sentencepiece.bpe.model"


@dataclasses.dataclass
class _Model:
    """What the file says.

    Attributes:
        pieces: (piece, score, type) by number.
        kind: of model.
        charsmap: how characters are normalised, compiled; b"" = not at all.
        dummy_prefix: a space is put before the text.
        extra_spaces: runs of spaces become one, and those at the ends go.
        suffixes: a space is behind its word, not before it.
    """

    pieces: list[tuple[str, float, int]] = dataclasses.field(default_factory=list)
    kind: int = _UNIGRAM
    charsmap: bytes = b""
    dummy_prefix: bool = True
    extra_spaces: bool = True
    suffixes: bool = False

    def of_type(self, *types: int) -> list[str]:
        return [piece for piece, _, kind in self.pieces if kind in types]


def read(path: pathlib.Path) -> tokenizers.Tokenizer:
    """Reads a `.model`.

    Raises:
        ValueError: it is none, is damaged, or of a kind that is not read here.
    """
    if path.name == _RENUMBERED:
        raise ValueError(
            f"{path}: models that come with a file of this name (XLM-R, mBART, CamemBERT) number"
            " their pieces otherwise than the file does: use the tokenizer.json of the model"
        )
    try:
        found = _parse(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from error
    names = [piece for piece, _, _ in found.pieces]
    unknown = [number for number, piece in enumerate(found.pieces) if piece[2] == _UNKNOWN]
    if len(unknown) != 1 or len(set(names)) != len(names):
        raise ValueError(
            f"{path} is no SentencePiece model: of {len(names)} pieces {len(unknown)} stand for"
            f" unknown ones and {len(names) - len(set(names))} are there twice"
        )
    if found.kind in _KINDS or found.suffixes:
        what = _KINDS.get(found.kind, "spaces behind the words")
        raise ValueError(f"{path} is a SentencePiece model of {what}; unigram and bpe are read")
    specials = _specials(names, names[unknown[0]])
    lacking = [name for name in specials.names.values() if name not in names]
    if lacking:
        _log.info("%s lacks %s: put behind its %d pieces", path, ", ".join(lacking), len(names))
    found.pieces += [(name, 0.0, _CONTROL) for name in lacking]
    return _built(found, unknown[0], specials)


def _specials(names: list[str], unknown: str) -> Specials:
    """Whose special tokens these pieces have, or have most of."""
    if "[CLS]" in names:
        kind = special_tokens.BERT if "[PAD]" in names else special_tokens.ALBERT
    else:
        kind = special_tokens.ROBERTA
    if kind.unk != unknown:
        raise ValueError(
            f"the piece for unknown ones is {unknown!r}; beside {kind.cls!r} it must be"
            f" {kind.unk!r} (train with --unk_piece={kind.unk})"
        )
    return kind


def _built(found: _Model, unknown: int, specials: Specials) -> tokenizers.Tokenizer:
    fallback = bool(found.of_type(_BYTE))
    if found.kind == _UNIGRAM:
        vocabulary = [(piece, score) for piece, score, _ in found.pieces]
        model = models.Unigram(vocabulary, unk_id=unknown, byte_fallback=fallback)
    else:
        numbers = {piece: number for number, (piece, _, _) in enumerate(found.pieces)}
        merges = _merges({p: score for p, score, kind in found.pieces if kind == _NORMAL})
        model = models.BPE(
            numbers,
            merges,
            unk_token=found.pieces[unknown][0],
            fuse_unk=True,
            byte_fallback=fallback,
        )
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = _normaliser(found)
    special = [*found.of_type(_CONTROL, _UNKNOWN, _UNUSED), *specials.names.values()]
    user = [piece for piece in found.of_type(_USER) if piece not in special]
    # Where spaces are kept, or are inside pieces, a piece may have several words.
    many = not found.extra_spaces or any(SPACE in piece[1:] for piece in found.of_type(_NORMAL))
    words = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=not many)
    steps = [words, _guard(special)]
    if user and found.kind == _UNIGRAM:
        steps.append(pre_tokenizers.Split(Regex(_any_of(user)), behavior="isolated"))
    elif user:  # no merges make them
        inner.add_tokens([AddedToken(piece, normalized=False) for piece in user])
    inner.pre_tokenizer = pre_tokenizers.Sequence(steps)
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=int(found.dummy_prefix)),
        ]
    )
    return inner


def _normaliser(found: _Model) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if found.charsmap:
        steps.append(normalizers.Precompiled(found.charsmap))
    if found.extra_spaces:
        steps.append(normalizers.Replace(Regex(" +"), " "))
        steps.append(normalizers.Replace(Regex(f"^ |[ {SPACE}]+$"), ""))
    if found.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))  # nothing, if there is no text
    return normalizers.Sequence(steps)


def _guard(names: list[str]) -> pre_tokenizers.PreTokenizer:
    """Cuts behind the first letter of what looks like a special token, so that none comes out."""
    longer = [name for name in dict.fromkeys(names) if len(name) > 1]
    found = [f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in longer]
    return pre_tokenizers.Split(Regex("|".join(found)), behavior="merged_with_previous")


def _any_of(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """The pairs that make the pieces, the best first: by them BPE finds what the scores say."""
    ranked = []
    for piece, score in scores.items():
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in scores and right in scores:
                ranked.append((-score, len(left), left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def _parse(data: bytes) -> _Model:
    found = _Model()
    for number, value in _fields(data):
        if number == 1:
            found.pieces.append(_piece(_bytes(value)))
        elif number == 2:
            trainer = dict(_fields(_bytes(value)))
            found.kind = int(trainer.get(3, _UNIGRAM))
            found.suffixes = bool(trainer.get(24, 0))
        elif number == 3:
            normaliser = dict(_fields(_bytes(value)))
            found.charsmap = _bytes(normaliser.get(2, b""))
            found.dummy_prefix = bool(normaliser.get(3, 1))
            found.extra_spaces = bool(normaliser.get(4, 1))
    if not found.pieces:
        raise ValueError("it has no pieces")
    if found.charsmap:
        _check_charsmap(found.charsmap)
    return found


def _check_charsmap(data: bytes) -> None:
    """Refuses a table of characters that leads out of itself: the library would end the thread.

    It is the size of a double-array trie, the trie (Darts-clone's, u32), and the texts that its
    leaves point at, each ended by a zero.
    """
    size = struct.unpack_from("<I", data)[0]
    if size % 4 or not 0 < size <= len(data) - 4:
        raise ValueError(f"a table of characters of {size} bytes in {len(data)}")
    units, texts = np.frombuffer(data, "<u4", size // 4, 4), data[4 + size :]
    texts.decode("utf-8")
    leaf = units >> 31 == 1
    leaf[0] = False  # the root is followed whatever it says
    below = np.arange(len(units), dtype=np.uint32) ^ (units >> 10) << ((units & 512) >> 6)
    inside = (below | 255) < len(units)  # the children of one lie in a block of 256
    ends = below[~leaf & inside & (units >> 8 & 1 == 1)]  # where a match ends, the text is said
    starts = units[ends] & 0x7FFFFFFF
    follows = np.frombuffer(texts, np.uint8) & 0xC0 == 0x80  # a byte inside a character
    if not inside[~leaf].all() or (starts >= len(texts)).any() or follows[starts].any():
        raise ValueError("a table of characters that leads out of itself")


def _piece(data: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(data))
    score = struct.unpack("<f", _bytes(fields.get(2, b"\0\0\0\0")))[0]
    return _bytes(fields.get(1, b"")).decode("utf-8"), score, int(fields.get(3, _NORMAL))


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    raise ValueError("a number where bytes are due")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message; fixed-size numbers as their bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of type {kind} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"a field of {size} bytes at byte {at} of {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError(f"a number without end at byte {at}")
