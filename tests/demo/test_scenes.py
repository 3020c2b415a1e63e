"""Composed scenes: true boxes, held-out pairs, determinism, little overlap, distinct captions."""

import itertools

import numpy as np
import pytest

from unified_fm.demo import scenes

NAMES = ["ant", "bell", "cup", "drum", "egg", "fan", "gear", "hat", "igloo", "jar", "key", "leaf"]


def drawing(number: int) -> np.ndarray:
    """u8[40 40 4]: an own dark shape with empty corners, inside an empty border."""
    y, x = np.mgrid[:40, :40] - 19.5
    shapes = [x**2 + y**2 < 225, abs(x) + abs(y) < 16, abs(x) < 8, (abs(y) < 9) & (abs(x) < 15)]
    picture = np.zeros((40, 40, 4), np.uint8)
    picture[shapes[number % 4] & (abs(y) < 17)] = [2 * number, 60, 130 - 2 * number, 255]
    return picture


def make(split="train", names=NAMES, **options) -> scenes.Scenes:
    return scenes.Scenes(names, [drawing(i) for i in range(len(names))], split=split, **options)


def drawn(scene) -> np.ndarray:
    """bool[S S]: where the scene differs from its ground, its most frequent colour."""
    colours, counts = np.unique(scene["image"].reshape(-1, 3), axis=0, return_counts=True)
    return (scene["image"] != colours[counts.argmax()]).any(-1)


def test_captions_and_articles():
    assert scenes.caption(["cup"]) == "a cup"
    assert scenes.caption(["cup", "ant"]) == "a cup and an ant"
    assert scenes.caption(["cup", "egg", "fan"]) == "a cup, an egg and a fan"


def test_a_scene_is_what_the_sources_promise():
    scene = make()[3]
    assert scene["image"].shape == (48, 48, 3) and scene["image"].dtype == np.uint8
    assert scene["text"] == scenes.caption(scene["objects"])
    phrases = [region["text"] for region in scene["regions"]]
    assert phrases == [scenes.caption([name]) for name in scene["objects"]]
    assert all(type(side) is int for region in scene["regions"] for side in region["box"])


def test_the_box_of_a_lone_object_is_the_bounding_box_of_its_pixels():
    source = make(layout=scenes.Layout(counts=(1,)))
    for i in range(100):
        rows, columns = np.nonzero(drawn(source[i]))
        x, y, width, height = source[i]["regions"][0]["box"]
        assert (x, x + width - 1) == (columns.min(), columns.max())
        assert (y, y + height - 1) == (rows.min(), rows.max())


def test_boxes_hold_all_pixels_and_each_reaches_its_four_sides():
    source = make(layout=scenes.Layout(max_overlap=0.0))
    for i in range(200):
        mask = drawn(source[i])
        covered = np.zeros_like(mask)
        for x, y, width, height in (region["box"] for region in source[i]["regions"]):
            part = mask[y : y + height, x : x + width]
            assert part.shape == (height, width), "a box leaves the scene"
            assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
            covered[y : y + height, x : x + width] = True
        assert not (mask & ~covered).any()


def test_sizes_and_overlaps_stay_within_the_layout():
    longer, worst = set(), 0.0
    for scene in map(make().__getitem__, range(400)):
        boxes = [region["box"] for region in scene["regions"]]
        longer |= {max(width, height) for _, _, width, height in boxes}
        for first, second in itertools.combinations(boxes, 2):
            pixels = np.zeros((2, 48, 48), bool)
            for layer, (x, y, width, height) in zip(pixels, (first, second), strict=True):
                layer[y : y + height, x : x + width] = True
            worst = max(worst, pixels.all(0).sum() / pixels.sum((1, 2)).min())
    assert longer == set(range(14, 25))
    assert 0 < worst <= 0.05


def test_a_crowded_scene_falls_back_to_quarters_and_still_fits():
    layout = scenes.Layout(size=40, min_side=20, max_side=20, counts=(4,), max_overlap=0.0)
    scene = make(layout=layout)[0]
    total = np.zeros((40, 40), int)
    for x, y, width, height in (region["box"] for region in scene["regions"]):
        total[y : y + height, x : x + width] += 1
    assert len(scene["regions"]) == 4 and total.max() == 1


def test_held_out_pairs_of_64_objects():
    names = [f"object{i}" for i in range(64)]
    pairs = scenes.held_out_pairs(names)
    assert {split: len(pairs[split]) for split in pairs} == {"val": 128, "test": 128}
    assert not set(pairs["val"]) & set(pairs["test"])
    for split in pairs:
        counts = np.bincount(np.array(pairs[split]).ravel(), minlength=64)
        assert (counts == 4).all(), "every object is held out equally often"
    assert pairs == scenes.held_out_pairs(names)
    turned = scenes.held_out_pairs(names[::-1])  # the order of the list decides nothing
    assert {frozenset(names[i] for i in pair) for pair in pairs["val"]} == {
        frozenset(names[::-1][i] for i in pair) for pair in turned["val"]
    }


def test_held_out_pairs_meet_only_in_their_split():
    pairs = {
        split: {frozenset(NAMES[i] for i in pair) for pair in held}
        for split, held in scenes.held_out_pairs(NAMES).items()
    }

    def met(split, count):
        source = make(split)
        for i in range(count):
            yield {frozenset(p) for p in itertools.combinations(source[i]["objects"], 2)}

    in_train = set().union(*met("train", 2000))
    assert not in_train & (pairs["val"] | pairs["test"])
    assert len(in_train) == 66 - len(pairs["val"]) - len(pairs["test"])  # all others are trained
    for split, other in (("val", "test"), ("test", "val")):
        for together in met(split, 200):
            assert together & pairs[split] and not together & pairs[other]


def test_no_object_is_twice_in_a_scene():
    source = make()
    objects = [source[i]["objects"] for i in range(500)]
    assert all(len(set(names)) == len(names) for names in objects)
    assert {len(names) for names in objects} == {1, 2, 3}


def test_evaluation_captions_are_distinct_within_a_block():
    names = [f"{chr(97 + i % 26)}{i}" for i in range(64)]
    source = make("val", names, length=500)
    assert source.block == 100
    for start in range(0, 500, 100):
        sets = {frozenset(source[i]["objects"]) for i in range(start, start + 100)}
        ids = {source[i]["id"] for i in range(start, start + 100)}
        assert len(sets) == len(ids) == 100


def test_the_id_names_the_objects_whatever_their_order():
    ids = {}
    source = make()
    for scene in map(source.__getitem__, range(600)):
        ids.setdefault(scene["id"], set()).add(frozenset(scene["objects"]))
    assert all(len(sets) == 1 for sets in ids.values())
    assert len({names for sets in ids.values() for names in sets}) == len(ids)


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_a_scene_depends_on_seed_split_and_index_only(split):
    one, other = make(split), make(split)
    list(map(other.__getitem__, (9, 2, 120)))  # reading in another order changes nothing
    for i in (0, 7, 120):
        np.testing.assert_array_equal(one[i]["image"], other[i]["image"])
        assert one[i]["regions"] == other[i]["regions"] and one[i]["text"] == other[i]["text"]
    assert not np.array_equal(one[0]["image"], one[1]["image"])
    assert not np.array_equal(one[0]["image"], make(split, seed=1)[0]["image"])


def test_an_index_outside_the_length_is_refused():
    assert len(make(length=5)) == 5
    with pytest.raises(IndexError, match="scene 5 of 5"):
        make(length=5)[5]


def test_cut_outs_too_large_for_a_scene_are_refused():
    with pytest.raises(ValueError, match=r"14 to 30 px do not fit a scene of 48 px .* at most 24"):
        scenes.Layout(max_side=30)
    assert scenes.Layout(max_side=44, counts=(1,)).max_side == 44
    with pytest.raises(ValueError, match="no split 'dev'"):
        make("dev")
    with pytest.raises(ValueError, match=r"scenes of 3 objects .* need more than 8 objects"):
        make(names=NAMES[:8])


def test_a_blend_is_the_rounded_mixture_of_drawing_and_ground():
    half = np.zeros((20, 20, 4), np.uint8)
    half[:] = [0, 100, 200, 128]
    layout = scenes.Layout(counts=(1,), min_side=20, max_side=20)
    scene = scenes.Scenes(["cup"], [half], layout=layout)[0]
    x, y, width, height = scene["regions"][0]["box"]
    ground = next(
        scene["image"][row, column].astype(float)
        for row, column in itertools.product((0, 47), (0, 47))
        if not (x <= column < x + width and y <= row < y + height)
    )
    mixture = np.array([0, 100, 200]) * 128 / 255 + ground * 127 / 255
    assert abs(scene["image"][y + 10, x + 10] - mixture).max() <= 1
