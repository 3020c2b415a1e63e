"""Tokenizers of every kind from the files that they come in: ids, word starts, refusals."""

import copy
import json

import huggingface_hub
import numpy as np
import pytest

from tests.data import vocabularies
from unified_fm import hub
from unified_fm.data import masking, tokenizer, tokenizer_training
from unified_fm.data.pipelines import text

TEXTS = ["the dogs, running", "a small red dog runs home", "the smaller dogs ran home"] * 5


def pieces(known, encoded):
    return [known.token(i) for i in encoded.ids[: encoded.length]]


def words(known, encoded):
    """The pieces of each word."""
    found = []
    for place in np.flatnonzero(encoded.inside):
        if encoded.word_start[place]:
            found.append([])
        found[-1].append(known.token(encoded.ids[place]))
    return found


@pytest.fixture
def kinds(tmp_path):
    """{kind: tokenizer}, each from files of its own."""
    folders = {name: tmp_path / name for name in ("clip", "bert", "roberta")}
    for folder in folders.values():
        folder.mkdir()
    vocabularies.write_clip(folders["clip"])
    tokenizer_training.train_wordpiece(TEXTS, 70).save(folders["bert"])
    tokenizer_training.train_byte_pairs(TEXTS, 280).save(folders["roberta"])
    model = vocabularies.write_sentencepiece(tmp_path / "my.model", vocabularies.unigram())
    places = {**folders, "sentencepiece": model, "bytes": "bytes"}
    return {name: tokenizer.load(place) for name, place in places.items()}


def test_clip_lower_cases_splits_by_its_own_words_and_marks_their_ends(tmp_path):
    ids = vocabularies.write_clip(tmp_path)
    clip = tokenizer.load(tmp_path)
    encoded = clip.encode("A  Dog's 42", 12)
    assert pieces(clip, encoded) == [
        *("<|startoftext|>", "a</w>", "dog</w>", "'", "s</w>", "4</w>", "2</w>", "<|endoftext|>")
    ]
    assert words(clip, encoded) == [["a</w>"], ["dog</w>"], ["'", "s</w>"], ["4</w>"], ["2</w>"]]
    assert encoded.ids[-1] == clip.pad_id == clip.sep_id == ids["<|endoftext|>"] == 516
    assert clip.decode(encoded.ids).strip() == "a dog 's 4 2"
    # What is written as a special token is read as its characters.
    inside = clip.encode("a <|endoftext|> b", 40)
    assert np.flatnonzero(inside.ids == clip.sep_id).tolist()[0] == inside.length - 1


def test_openais_own_file_gives_the_same_pieces(tmp_path):
    (tmp_path / "pair").mkdir()
    vocabularies.write_clip(tmp_path / "pair")
    one = tokenizer.load(vocabularies.write_clip_merges(tmp_path))
    pair = tokenizer.load(tmp_path / "pair")
    for given in vocabularies.TRICKY:
        assert pieces(one, one.encode(given, 30)) == pieces(pair, pair.encode(given, 30))
    first = [one.token(i) for i in (0, 93, 94, 188, 256, 512, 513, 514, 515, 516)]
    assert first[:6] == ["!", "~", "¡", "Ā", "!</w>", "og</w>"]  # as OpenAI numbers them
    assert first[6:] == ["dog</w>", "do", "<|startoftext|>", "<|endoftext|>"]


def test_clip_cannot_mask_and_says_so(kinds):
    clip = kinds["clip"]
    with pytest.raises(ValueError, match=r"mask_rate is 0\.15, and the tokenizer has no mask"):
        text.Pipeline(tokenizer=clip)
    with pytest.raises(ValueError, match="CLIP's has no mask token"):
        _ = clip.mask_id
    assert text.Pipeline(tokenizer=clip, mask_rate=0).spec().keys() == {"text", "text_mask"}


def test_sentencepiece_keeps_its_numbers_and_gets_what_it_lacks(kinds):
    known = kinds["sentencepiece"]
    assert (known.unk_id, known.cls_id, known.sep_id) == (0, 1, 2)
    count = len(vocabularies.unigram())
    assert (known.pad_id, known.mask_id, known.vocab_size) == (count, count + 1, count + 2)
    encoded = known.encode("the  dogs, running", 12)
    assert pieces(known, encoded) == [*("<s>", "▁the", "▁dog", "s", ",", "▁run", "ning", "</s>")]
    assert words(known, encoded) == [["▁the"], ["▁dog", "s", ","], ["▁run", "ning"]]
    assert known.decode(encoded.ids) == "the dogs, running"
    assert known.encode("", 5).length == known.encode("   ", 5).length == 2
    # Controls are no pieces of a text.
    inside = known.encode("the</s><s>", 20)
    assert pieces(known, inside)[1:-1] == ["▁the", *"</s><s>"]
    again = known.encode("the ☃☃ dogs", 12)  # several unknown letters are one piece, as there
    assert pieces(known, again)[1:-1] == ["▁the", "▁", "<unk>", "▁dog", "s"]


def test_pieces_of_the_user_are_never_parted(tmp_path):
    found = [*vocabularies.unigram(), ("the", -9.0, vocabularies.USER)]
    known = tokenizer.load(vocabularies.write_sentencepiece(tmp_path / "user.model", found))
    assert pieces(known, known.encode("the dog", 9))[1:-1] == ["▁", "the", "▁dog"]


def test_sentencepiece_of_pairs(tmp_path):
    found = [("<unk>", 0.0, vocabularies.UNKNOWN), ("<s>", 0.0, vocabularies.CONTROL)]
    found += [("</s>", 0.0, vocabularies.CONTROL)]
    letters = dict.fromkeys("▁abc", -9.0)
    ranked = {"ab": -0.0, "▁ab": -1.0, "bc": -2.0} | letters
    found += [(piece, score, vocabularies.NORMAL) for piece, score in ranked.items()]
    path = vocabularies.write_sentencepiece(tmp_path / "bpe.model", found, kind=2)
    known = tokenizer.load(path)
    assert words(known, known.encode("abc bc", 9)) == [["▁ab", "c"], ["▁", "bc"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(kind=4), "a SentencePiece model of characters; unigram and bpe are read"),
        (dict(suffix=1), "of spaces behind the words"),
    ],
)
def test_sentencepiece_of_another_kind_is_refused(tmp_path, change, message):
    path = vocabularies.write_sentencepiece(tmp_path / "a.model", vocabularies.unigram(), **change)
    with pytest.raises(ValueError, match=message):
        tokenizer.load(path)


def test_a_damaged_model_is_one_error_and_a_renumbered_one_too(tmp_path):
    path = vocabularies.write_sentencepiece(tmp_path / "a.model", vocabularies.unigram())
    data, refused = path.read_bytes(), 0
    for length in range(0, len(data) - 1, 3):
        (tmp_path / f"{length}.model").write_bytes(data[:length])
        try:  # one that ends between two pieces is a smaller model
            tokenizer.load(tmp_path / f"{length}.model")
        except ValueError as error:
            assert "is no" in str(error) or "piece for unknown" in str(error)
            refused += 1
    assert refused > 0.8 * len(data) / 3
    other = path.rename(tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(ValueError, match="number their pieces otherwise"):
        tokenizer.load(other)


@pytest.mark.parametrize("kind", ["clip", "bert", "roberta", "sentencepiece", "bytes"])
def test_words_begin_where_their_kind_writes_it(kinds, kind):
    known, begins = kinds[kind], 0
    for given in [*vocabularies.TRICKY, *TEXTS]:
        encoded = known.encode(given, 60)
        found = words(known, encoded)
        assert sum(map(len, found)) == encoded.inside.sum()
        for number, word in enumerate(found):
            begins += 1
            if kind == "bert":
                assert [piece.startswith("##") for piece in word] == [False] + [True] * (
                    len(word) - 1
                )
            if kind == "clip" and number < len(found) - 1:  # the last may be cut
                ends = [piece.endswith("</w>") for piece in word]
                assert ends == [False] * (len(word) - 1) + [True]
            if kind == "sentencepiece":
                opens = [piece.startswith(vocabularies.SPACE) for piece in word]
                assert opens == [True] + [False] * (len(word) - 1)
            if kind in ("roberta", "bytes"):  # a space is the beginning of a word, or is one
                assert not any("Ġ" in piece and set(piece) != {"Ġ"} for piece in word[1:]), word
    assert begins > 140


@pytest.mark.parametrize("kind", ["clip", "bert", "roberta", "sentencepiece", "bytes"])
def test_a_copy_for_another_process_gives_the_same(kinds, kind):
    known, again = kinds[kind], copy.copy(kinds[kind])
    assert again.text() == known.text()
    for given in [*vocabularies.TRICKY, "a </s> [MASK] <|endoftext|> <mask> b"]:
        one, two = known.encode(given, 40), again.encode(given, 40)
        np.testing.assert_array_equal(one.ids, two.ids)
        np.testing.assert_array_equal(one.word_start, two.word_start)


@pytest.mark.parametrize("kind", ["bert", "roberta", "sentencepiece", "bytes"])
def test_whole_words_are_hidden_in_every_kind(kinds, kind):
    known = kinds[kind]
    encoded = known.encode("the dogs running, the smaller dog", 80)
    owner = np.cumsum(encoded.word_start) * encoded.inside
    masker = masking.TokenMasker(rate=0.4, max_masked=20)
    for seed in range(30):
        out = masker(encoded, known, np.random.default_rng(seed))
        hidden = out["masked_positions"][out["masked_ids"] != masking.IGNORED]
        assert set(hidden) == set(np.flatnonzero(np.isin(owner, owner[hidden]))) and len(hidden)


def test_a_text_without_parts_of_its_own_is_one_word_no_more(tmp_path):
    """Llama's file parts no words before its pieces: the pieces say where words begin."""
    known = tokenizer.load(
        vocabularies.write_sentencepiece(tmp_path / "my.model", vocabularies.unigram())
    )
    tree = json.loads(known.text())
    tree["pre_tokenizer"] = None
    tree["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": vocabularies.SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": vocabularies.SPACE},
        ],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    llama = tokenizer.load(tmp_path / "tokenizer.json")
    found = words(llama, llama.encode("the dogs, running", 12))
    assert found == words(known, known.encode("the dogs, running", 12)) and len(found) == 3


def test_a_vocab_txt_is_lower_cased_as_the_config_beside_it_says(tmp_path):
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "Dog", "dog", "é", "e"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    assert pieces(known := tokenizer.load(tmp_path), known.encode("Dog", 5))[1] == "Dog"
    for told, wanted in (
        (dict(do_lower_case=True), ["dog", "e"]),
        (dict(do_lower_case=True, strip_accents=False), ["dog", "é"]),
        (dict(do_lower_case=False), ["Dog", "é"]),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
        tokenizer._load.cache_clear()
        known = tokenizer.load(tmp_path)
        assert pieces(known, known.encode("Dog é", 5))[1:-1] == wanted


def test_D4_a_name_on_the_hub_asks_for_tokenizer_files_only(tmp_path, monkeypatch):
    vocabularies.write_clip(tmp_path)
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert tokenizer.load("hf:openai/clip-vit-base-patch32").vocab_size == 517
    (name, patterns), *more = asked
    assert name == "openai/clip-vit-base-patch32" and not more
    assert {"tokenizer.json", "vocab.txt", "merges.txt", "tokenizer_config.json"} <= set(patterns)
    assert not any("safetensors" in pattern or "*" in pattern for pattern in patterns)

    def refuse(name, allow_patterns):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match=r"hf:a/b is neither in the cache .* no connection"):
        tokenizer.load("hf:a/b")
    with pytest.raises(FileNotFoundError, match="no installed package 'no_such'"):
        tokenizer.load("package:no_such/model")
    assert hub.folder("plain/path", ["*"]) == "plain/path"


def test_a_vocabulary_of_no_family_is_refused_with_what_each_would_need(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<s>": 0, "a": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=r"of 2 tokens lacks .* \(as in BERT\)") as refused:
        tokenizer.load(tmp_path)
    assert "<pad>, <unk>, </s>, <mask> (as in RoBERTa)" in str(refused.value)
    assert "<|startoftext|>" in str(refused.value)


def test_rare_letters_do_not_make_a_wordpiece_vocabulary_another_each_time():
    """Those that are no pieces are [UNK]; the library gave their ids in the order of a hash."""
    rare = [chr(code) for code in range(0x3B1, 0x3C9)]
    texts = ["the smaller dogs ran home, running"] * 4000
    texts += [f"x{letter}y z{letter}{letter}x" for letter in rare]
    first, *others = [tokenizer_training.train_wordpiece(texts, 300) for _ in range(6)]
    assert {known.text() for known in others} == {first.text()}
    assert first.token_id(rare[0]) is not None  # in 0.9999 of the letters
    assert first.token_id(rare[-1]) is first.token_id(f"##{rare[-1]}") is None


def test_byte_pairs_trained_are_the_same_each_time_and_spell_everything(kinds):
    first, again = (tokenizer_training.train_byte_pairs(iter(TEXTS), 300) for _ in range(2))
    assert first.text() == again.text()
    assert (first.cls_id, first.pad_id, first.sep_id, first.unk_id, first.mask_id) == tuple(
        range(5)
    )
    assert first.vocab_size <= 300
    for given in vocabularies.TRICKY:
        cut = given[:100]
        assert first.decode(first.encode(cut, 1000).ids) == cut
    with pytest.raises(ValueError, match="vocab_size 200 has no room for 5 special tokens and 256"):
        tokenizer_training.train_byte_pairs(TEXTS, 200)
