"""Opens a tokenizer from the files that BERT, RoBERTa, CLIP and SentencePiece come in."""

import contextlib
import gzip
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from unified_fm import buckets, hub
from unified_fm.data import official, sentencepiece_file, special_tokens

# What may be a tokenizer in a folder; the first that is there counts.
NAMES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "bpe_simple_vocab_16e6.txt.gz",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_BESIDE = ("merges.txt", "tokenizer_config.json")
_ENDINGS = (".txt", ".json", ".txt.gz", ".model")
_CLIP_MERGES = 49152 - 256 - 2  # of the 262,000 in OpenAI's file, those that it uses
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_WORD_END = "</w>"


def find(place: str) -> pathlib.Path:
    """The file of a tokenizer at a path, in a folder, an `hf:OWNER/NAME` or a `package:NAME/...`.

    Raises:
        FileNotFoundError: none of these is there; the message lists what was looked for.
        ValueError: the file's name ends in another way.
    """
    path = pathlib.Path(hub.folder(place, (*NAMES, *_BESIDE)))
    if path.is_dir():
        for name in NAMES:
            if (path / name).exists():
                return path / name
        raise FileNotFoundError(f"no tokenizer in {place}: looked for {', '.join(NAMES)}")
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer at {place}: give a tokenizer.json, vocab.txt, vocab.json (with"
            f" merges.txt beside it), a SentencePiece .model, a folder with one of them,"
            f' hf:OWNER/NAME, or "bytes"'
        )
    if not path.name.endswith(_ENDINGS):
        raise ValueError(
            f"{path} ends in {path.suffix!r}; a tokenizer file ends in {', '.join(_ENDINGS)}"
        )
    return path


@contextlib.contextmanager
def fetched(place: str) -> Iterator[pathlib.Path]:
    """A local copy, for a while, of the file that `find` finds at a place in a bucket.

    Raises:
        FileNotFoundError, ValueError: as `find` and the body, with the names that the bucket has.
        OSError: the bucket cannot be read.
    """
    parent, name, wanted = place.rstrip("/"), "", {*NAMES, *_BESIDE}
    if buckets.isfile(place):
        parent, name = place.rsplit("/", 1)
        wanted = {name, *_BESIDE, name.replace("vocab.json", "merges.txt")}
    elif not buckets.isdir(place):
        raise FileNotFoundError(f"no tokenizer at {place}{official.beside(place)}")
    with tempfile.TemporaryDirectory() as folder:
        for each in sorted(wanted.intersection(buckets.names(parent)[0])):
            pathlib.Path(folder, each).write_bytes(buckets.read(f"{parent}/{each}"))
        try:
            yield find(os.path.join(folder, name) if name else folder)
        except (FileNotFoundError, ValueError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(str(error).replace(folder, parent)) from error


def read(found: pathlib.Path) -> tokenizers.Tokenizer:
    """Opens the file that `find` has found, with its special tokens.

    Raises:
        FileNotFoundError: another file is needed beside it.
        ValueError: it is not what its name says, or the special tokens are of no family known.
        Exception: the `tokenizers` library found a fault.
    """
    if found.suffix == ".model":
        return sentencepiece_file.read(found)
    if found.name.endswith(".gz"):
        return _clip_merges(found)
    if found.suffix == ".txt":
        return wordpiece(_read_vocabulary(found), **_bert_settings(found))
    if found.name.endswith("vocab.json"):
        return _pairs(found)
    inner = tokenizers.Tokenizer.from_file(str(found))
    # Hugging Face's own class mends this where it decodes; the file does not say it.
    model = inner.model
    if isinstance(model, models.BPE) and model.end_of_word_suffix == _WORD_END:
        inner.decoder = _clip_decoder()
    return inner


def _pairs(found: pathlib.Path) -> tokenizers.Tokenizer:
    merges = found.with_name(found.name.replace("vocab.json", "merges.txt"))
    if not merges.exists():
        raise FileNotFoundError(f"{found} needs {merges.name} beside it; there is none")
    if special_tokens.CLIP.cls in json.loads(found.read_text(encoding="utf-8")):
        return _clip(*models.BPE.read_file(str(found), str(merges)))
    inner = byte_level(models.BPE.from_file(str(found), str(merges)))
    if _settings_beside(found).get("add_prefix_space") is True:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return inner


def _settings_beside(found: pathlib.Path) -> dict[str, Any]:
    """What a `tokenizer_config.json` beside the file says; {} if there is none."""
    file = found.with_name("tokenizer_config.json")
    told = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not isinstance(told, dict):
        raise ValueError(f"{file} holds no object")
    return told


def _bert_settings(found: pathlib.Path) -> dict[str, bool]:
    """How `tokenizer_config.json` wants letters changed; without it, the vocabulary decides."""
    keys = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "chinese",
    }
    told = _settings_beside(found)
    return {ours: told[key] for key, ours in keys.items() if isinstance(told.get(key), bool)}


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


def wordpiece(
    vocabulary: dict[str, int],
    lowercase: bool | None = None,
    strip_accents: bool | None = None,
    chinese: bool = True,
) -> tokenizers.Tokenizer:
    """BERT's: words of letters, then the longest pieces from the left.

    Args:
        vocabulary: {piece: id}.
        lowercase: None = unless the vocabulary has capitals.
        strip_accents: None = where it lower-cases.
        chinese: each Chinese character is a word.
    """
    if lowercase is None:  # a cased vocabulary shows its capitals
        specials = set(special_tokens.BERT.names.values())
        normal = (t for t in vocabulary if t not in specials and not t.startswith("[unused"))
        lowercase = not any(token != token.lower() for token in normal)
    unk = special_tokens.BERT.unk
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unk))
    inner.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    """RoBERTa's: pairs of bytes, a word with the space before it; no text is changed."""
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner


def plain_bytes() -> tokenizers.Tokenizer:
    """A byte is a token; RoBERTa's special tokens around them, 261 ids."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: index for index, token in enumerate([*tokens, "<mask>"])}
    return byte_level(models.BPE(vocabulary, [], unk_token="<unk>"))


def _clip(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """CLIP's: lower case, words by its own expression, pairs of bytes, a mark where a word ends.

    As Hugging Face has it. OpenAI's program also mends broken encodings (`ftfy`) and undoes HTML's
    entities first; here a text is what it says.
    """
    model = models.BPE(
        vocabulary, merges, end_of_word_suffix=_WORD_END, unk_token=special_tokens.CLIP.unk
    )
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    # Hugging Face lets a special token's name be a word, too: here it is read as its characters.
    words = pre_tokenizers.Split(tokenizers.Regex(_CLIP_WORDS), behavior="removed", invert=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = _clip_decoder()
    return inner


def _clip_decoder() -> decoders.Decoder:
    # A space goes through the second decoder as a byte's letter.
    return decoders.Sequence([decoders.Replace(_WORD_END, "Ġ"), decoders.ByteLevel()])


def _clip_merges(found: pathlib.Path) -> tokenizers.Tokenizer:
    """OpenAI's own file, in which only the merges are written."""
    lines = gzip.decompress(found.read_bytes()).decode("utf-8").split("\n")
    split = [line.split() for line in lines[1 : 1 + _CLIP_MERGES] if line.strip()]
    if not split or any(len(pair) != 2 for pair in split):
        raise ValueError(f"{found} is no list of merges, two pieces a line")
    pairs = [(first, second) for first, second in split]
    letters = _byte_letters()
    tokens = [*letters, *(letter + _WORD_END for letter in letters)]
    tokens += ["".join(pair) for pair in pairs]
    tokens += [special_tokens.CLIP.cls, special_tokens.CLIP.sep]
    return _clip({token: index for index, token in enumerate(tokens)}, pairs)


def _byte_letters() -> list[str]:
    """The letter of each byte, in CLIP's order: those that can be printed first."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return [chr(byte) for byte in printed] + [chr(256 + n) for n in range(len(others))]
