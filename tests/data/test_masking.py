"""Token and patch masks: exact counts, forbidden places, and shares within three sigma."""

import numpy as np
import pytest

from unified_fm.data import masking, tokenizer

SENTENCE = "the quick brown fox jumps over the lazy dog in the woods"  # 12 words, 56 bytes


@pytest.fixture
def plain():
    return tokenizer.load("bytes")


def draws(plain, masker, count, text=SENTENCE):
    encoded = plain.encode(text, 64)
    made = [masker(encoded, plain, np.random.default_rng(k)) for k in range(count)]
    return encoded, {key: np.stack([m[key] for m in made]) for key in made[0]}


@pytest.mark.parametrize(
    ("rate", "slots", "expected"),
    [(0.15, 20, 9), (0.5, 15, 15), (0.001, 20, 1)],  # of 58 tokens: rounded, capped, at least 1
)
def test_spans_hide_exactly_the_number_asked_for(plain, rate, slots, expected):
    masker = masking.TokenMasker(rate=rate, max_masked=slots, units="spans")
    encoded, out = draws(plain, masker, 200)
    assert encoded.length == 58
    assert ((out["masked_ids"] != -100).sum(1) == expected).all()
    used = out["masked_ids"][:, :expected]
    assert (encoded.ids[out["masked_positions"][:, :expected]] == used).all()
    assert (np.diff(out["masked_positions"][:, :expected], axis=1) > 0).all()  # never one twice


@pytest.mark.parametrize("units", ["words", "spans"])
def test_special_tokens_and_padding_are_never_hidden_nor_put_in(plain, units):
    masker = masking.TokenMasker(rate=0.5, max_masked=40, units=units)
    encoded, out = draws(plain, masker, 400)
    untouched = np.ones(64, bool)
    untouched[1:57] = False  # cls at 0, sep at 57, padding behind
    assert (out["text_masked"][:, untouched] == encoded.ids[untouched]).all()
    put_in = out["text_masked"][:, 1:57]
    assert not (plain.is_special[put_in] & (put_in != plain.mask_id)).any()


def test_official_masking_may_hide_sep_and_put_in_any_token(plain):
    masker = masking.TokenMasker(rate=1.0, max_masked=58, units="spans", special_tokens="official")
    _, out = draws(plain, masker, 300)
    assert (out["masked_positions"][:, 56] == 57).all()  # all but cls, sep included
    inside = out["text_masked"][:, 1:57]
    others = plain.is_special[inside] & (inside != plain.mask_id)
    # A tenth of 16,800 tokens, of which 4 of 261 are other special tokens.
    share, expected = others.mean(), 0.1 * 4 / 261
    assert abs(share - expected) < 3 * np.sqrt(expected / inside.size)


def test_eighty_ten_ten(plain):
    masker = masking.TokenMasker(rate=0.5, max_masked=40, units="spans")
    _, out = draws(plain, masker, 500)
    chosen = out["masked_ids"] != -100
    total = chosen.sum()
    rows = np.arange(500)[:, None]
    became = out["text_masked"][rows, out["masked_positions"]][chosen]
    was = out["masked_ids"][chosen]
    masked, same = (became == plain.mask_id).mean(), (became == was).mean()
    # The random tenth is drawn from 256 bytes and hits the true one once in 256.
    for share, expected in ((masked, 0.8), (same, 0.1 + 0.1 / 256)):
        assert abs(share - expected) < 3 * np.sqrt(expected * (1 - expected) / total)


def test_published_spans_have_two_or_three_tokens_a_fifth_of_the_time():
    # Two tokens asked for. A span first (0.2): both of it. A single first (0.8): the next start
    # gives one more (0.8), or a span of 2 or 3, and two of the 3 or 4 are drawn: apart 2/3 or 1/2.
    apart = 0.8 * (0.8 + 0.2 * (0.5 * 2 / 3 + 0.5 * 1 / 2))
    rng = np.random.default_rng(0)
    pairs = np.array([masking._spans(np.arange(300) > 0, 2, rng) for _ in range(2000)])
    seen = (np.diff(pairs) > 2).mean()
    by_chance = 4 / 299  # two starts next to each other
    assert abs(seen - apart) < 3 * np.sqrt(apart * (1 - apart) / 2000) + by_chance


def test_words_are_hidden_whole(plain):
    masker = masking.TokenMasker(rate=0.3, max_masked=30)
    encoded, out = draws(plain, masker, 300)
    word = np.cumsum(encoded.word_start)  # the word of each position, from 1
    sizes = np.bincount(word[1:57])
    counts = (out["masked_ids"] != -100).sum(1)
    for positions, count in zip(out["masked_positions"], counts, strict=True):
        hidden = np.bincount(word[positions[:count]], minlength=13)
        assert set(hidden[hidden > 0] - sizes[hidden > 0]) == {0}
    assert counts.max() == 17  # round(0.3 * 58)
    assert counts.min() > 17 - sizes.max()


def test_words_of_several_wordpieces_are_hidden_whole(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##believ", "##able", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    words = tokenizer.load(tmp_path)
    encoded = words.encode("a unbelievable a unbelievable a", 12)  # 9 pieces + 2
    seen = set()
    for k in range(100):
        out = masking.TokenMasker(rate=0.3, max_masked=5)(encoded, words, np.random.default_rng(k))
        seen.add(tuple(out["masked_positions"][out["masked_ids"] != -100]))
    # 3 pieces asked for: one long word, or the three short ones.
    assert seen == {(2, 3, 4), (6, 7, 8), (1, 5, 9)}


def test_one_long_word_is_hidden_though_it_exceeds_the_number(plain):
    out = masking.TokenMasker(rate=0.15, max_masked=20)(
        plain.encode("abcdefgh", 12), plain, np.random.default_rng(0)
    )
    assert (out["masked_ids"] != -100).sum() == 8


def test_block_masks_have_the_exact_count_on_any_grid():
    for grid, hidden in ((14, 75), (4, 6), (2, 1), (3, 9), (14, 0), (30, 345)):
        for seed in range(50):
            mask = masking.block_patch_mask(grid, hidden, np.random.default_rng(seed))
            assert mask.shape == (grid * grid,)
            assert mask.sum() == hidden
    with pytest.raises(ValueError, match="num_masked is 17; the image has 16"):
        masking.block_patch_mask(4, 17, np.random.default_rng(0))


def test_block_masks_are_blocks():
    def neighbours(masks):  # share of hidden patches whose right neighbour is hidden
        grids = masks.reshape(-1, 14, 14)
        return (grids[:, :, :-1] & grids[:, :, 1:]).sum() / grids[:, :, :-1].sum()

    blocks, points = (
        np.stack([make(14, 75, np.random.default_rng(k)) for k in range(100)])
        for make in (masking.block_patch_mask, masking.random_patch_mask)
    )
    assert abs(neighbours(points) - 74 / 195) < 0.02  # independent of the neighbour
    assert neighbours(blocks) > 0.75


def test_wrong_options_name_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'words'"):
        masking.TokenMasker(units="word")
    with pytest.raises(ValueError, match=r"mask_rate is 1\.5"):
        masking.TokenMasker(rate=1.5)
