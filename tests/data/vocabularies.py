"""Small vocabularies of every kind, written as their own programs write them, and hard texts."""

import gzip
import json
import struct

from tokenizers import pre_tokenizers

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6

TRICKY = [
    "",
    " ",
    " \t\n ",
    "Hello world",
    "  leading and trailing  ",
    "a  b   c",
    "don't can't we're I'll",
    "naïve café résumé Ångström",
    "e\u0301 combining n\u0303",
    "中文字符 mixed with English中文",
    "日本語テキスト。カタカナ",
    "😀👍🏽🏳️‍🌈 emoji",
    "a\x00b\x01c\x7f",
    "zero\u200bwidth\u200djoin\ufeff",
    "x" * 3000,
    "word " * 2000,
    "ﬁ ligature ① ㌔ ½",
    "RTL שלום مرحبا",
    "a\u00a0b\u3000c",
    "1234567890 3.14159 1,000",
    "!!!??? ... --- ***",
    "\u2028line\u2029para",
    "\U0001d518\U0001d52b\U0001d526 \U0001d48e\U0001d482",
    "ß ẞ İ \u0131 \u017f",
    "tab\tnew\nline\r\n",
    "\U0010ffff private \ue000",
    "http://example.com/a?b=c&d=e#f",
    "[mask] <MASK> < s > |end|",
]


def write_clip(folder):
    """CLIP's two files: bytes, bytes that end a word, merges, two special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["o g</w>", "d og</w>", "d o"]
    pieces = [*letters, *(letter + "</w>" for letter in letters), "og</w>", "dog</w>", "do"]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    return ids


def write_clip_merges(folder):
    """OpenAI's one file."""
    lines = "\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', "o g</w>", "d og</w>", "d o", ""])
    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    return path


def write_sentencepiece(path, pieces, **trainer):
    """A `.model`: (piece, score, type) each; `trainer` has `kind` and `suffix`."""
    data = b"".join(_message(1, _piece(*piece)) for piece in pieces)
    settings = _number(3, trainer.get("kind", 1)) + _number(24, trainer.get("suffix", 0))
    data += _message(2, settings)
    data += _message(3, _message(1, b"identity") + _number(3, 1) + _number(4, 1))
    path.write_bytes(data)
    return path


def unigram():
    """<unk>, <s>, </s> as spm_train numbers them, and a few pieces."""
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    words = {f"{SPACE}the": -2, f"{SPACE}dog": -3, "s": -4, f"{SPACE}run": -4, "ning": -5}
    words |= dict.fromkeys([SPACE, *"thedogruni,<>/"], -8)
    return pieces + [(piece, float(score), NORMAL) for piece, score in words.items()]


def _piece(piece, score, kind):
    return _message(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)


def _number(field, value):
    return _varint(field << 3) + _varint(value)


def _message(field, data):
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])
