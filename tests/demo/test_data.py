"""The demo data set: repeatable, honest masks, MVTec layout, nothing half-written."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from mendiff.demo.data import (
    CATEGORIES,
    DEFECTS,
    LOCAL_DEFECTS,
    DemoConfig,
    make_data,
    render_defective,
    render_good,
)
from mendiff.demo.geometry import TURNED
from mendiff.errors import InputError

SIZE = 96
PAIRS = [(category, defect) for category in CATEGORIES for defect in DEFECTS[category]]
SMALL = DemoConfig(size=64, n_train=2, n_test_good=1, n_defective=6, categories=("fabric", "tile"))


@cache
def twins(category: str, defect: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How far a defective picture is from its good twin (H,W), and the mask (H,W)."""
    bad, mask = render_defective(category, defect, np.random.default_rng(seed), SIZE)
    good = render_good(category, np.random.default_rng(seed), SIZE)
    return np.abs(bad.astype(int) - good).max(-1), mask


def read_all(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


@pytest.mark.parametrize("category", CATEGORIES)
def test_equal_generators_give_equal_pictures_and_others_differ(category: str) -> None:
    first, again, other = (render_good(category, np.random.default_rng(seed), SIZE) for seed in (1, 1, 2))
    assert first.shape == (SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 2


@pytest.mark.parametrize("category", CATEGORIES)
def test_pictures_are_well_exposed(category: str) -> None:
    picture = render_good(category, np.random.default_rng(3), SIZE)
    assert 50 < picture.mean() < 200
    assert (picture.min(-1) == 255).mean() < 0.01
    assert np.percentile(picture, 95) - np.percentile(picture, 5) > 60


@pytest.mark.parametrize(("category", "defect"), PAIRS)
@pytest.mark.parametrize("seed", [11, 12])
def test_mask_is_where_the_defective_part_differs_from_its_good_twin(
    category: str, defect: str, seed: int
) -> None:
    change, mask = twins(category, defect, seed)
    visible = change > 8
    around = ndimage.binary_dilation(mask, iterations=3)
    assert mask.shape == (SIZE, SIZE)
    assert 0.001 < mask.mean() < (0.06 if defect in LOCAL_DEFECTS[category] else 0.3)
    assert (visible & mask).sum() > 0.6 * mask.sum()
    assert (visible & ~around).sum() <= 0.1 * visible.sum()


@pytest.mark.parametrize(("category", "defect"), PAIRS)
def test_nothing_changes_far_from_the_defect(category: str, defect: str) -> None:
    change, mask = twins(category, defect, 11)
    far = ~ndimage.binary_dilation(mask, iterations=SIZE // 8)
    assert change[far].max() <= 2


@pytest.mark.parametrize("category", ["blister", "flange"])
def test_a_turned_part_is_far_from_every_pose_of_a_good_one(category: str) -> None:
    goods = [render_good(category, np.random.default_rng(seed), SIZE).astype(int) for seed in range(8)]
    bad, mask = render_defective(category, TURNED, np.random.default_rng(9), SIZE)
    own = render_good(category, np.random.default_rng(9), SIZE).astype(int)
    usual = min(np.abs(one - own)[mask].mean() for one in goods)
    assert min(np.abs(one - bad)[mask].mean() for one in goods) > 1.5 * usual


def test_turned_parts_leave_all_other_images_as_they_are(tmp_path: Path) -> None:
    for name, count in (("with", 2), ("without", 0)):
        make_data(tmp_path / name, DemoConfig(64, 1, 1, 6, ("flange",), n_turned=count))
    more, fewer = read_all(tmp_path / "with"), read_all(tmp_path / "without")
    assert {name: more[name] for name in fewer} == fewer
    added = {name.rpartition("/")[0] for name in more.keys() - fewer.keys()}
    assert added == {f"flange/{folder}/turned" for folder in ("test", "ground_truth", "twin")}


def test_folder_has_the_layout_of_mvtec(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_data(tmp_path / "parts", SMALL, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k, 18) for k in range(1, 19)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts"]
    for category in SMALL.categories:
        folder = tmp_path / "parts" / category
        assert sorted(p.name for p in folder.glob("train/good/*")) == ["000.png", "001.png"]
        assert sorted(p.name for p in folder.glob("test/good/*")) == ["000.png"]
        defective = [p for p in sorted(folder.glob("test/*/*.png")) if p.parent.name != "good"]
        assert len(defective) == 6
        assert {p.parent.name for p in defective} == set(DEFECTS[category])
        assert len(list(folder.glob("ground_truth/*/*"))) == 6
        assert [p.relative_to(folder / "twin") for p in sorted(folder.glob("twin/*/*"))] == [
            p.relative_to(folder / "test") for p in defective
        ]
        for path in defective:
            with Image.open(path) as picture:
                assert (picture.mode, picture.size) == ("RGB", (64, 64))
            with Image.open(folder / "ground_truth" / path.parent.name / f"{path.stem}_mask.png") as mask:
                assert (mask.mode, mask.size) == ("L", (64, 64))
                assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_a_twin_is_its_image_without_the_defect(tmp_path: Path) -> None:
    make_data(tmp_path, DemoConfig(SIZE, 0, 0, 5, n_turned=1))
    twins = sorted(tmp_path.glob("*/twin/*/*.png"))
    assert len(twins) == 4 * 5 + 2
    for path in twins:
        folder, name = path.parents[2], f"{path.parent.name}/{path.stem}"
        twin, image, mask = (
            np.asarray(Image.open(folder / place)).astype(int)
            for place in (f"twin/{name}.png", f"test/{name}.png", f"ground_truth/{name}_mask.png")
        )
        change = np.abs(twin - image).max(-1)
        near = ndimage.binary_dilation(mask, iterations=4)
        assert change[mask > 0].mean() > 8, path
        # A defect throws a shadow, or fills one: a little of what it changes lies farther off.
        assert change[~near].mean() < 0.1, path
        assert (change[~near] == 0).mean() > 0.95, path
        assert change[~ndimage.binary_dilation(mask, iterations=SIZE // 8)].max() <= 2, path


def test_an_image_depends_on_seed_and_path_only(tmp_path: Path) -> None:
    make_data(tmp_path / "two", SMALL)
    make_data(tmp_path / "one", DemoConfig(64, n_train=1, n_test_good=2, n_defective=3, categories=("tile",)))
    make_data(tmp_path / "else", DemoConfig(64, 1, 1, 1, ("tile",), seed=1))
    two, one, other = (read_all(tmp_path / name) for name in ("two", "one", "else"))
    shared = two.keys() & one.keys()
    assert len(shared) == 1 + 1 + 3 * 3
    assert all(two[name] == one[name] for name in shared)
    assert len(set(two.values())) == len(two)
    assert all(two[name] != other[name] for name in other)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    make_data(tmp_path, DemoConfig(64, 1, 0, 0, ("fabric",)))
    assert list(read_all(tmp_path)) == ["fabric/train/good/000.png"]
    assert [p.name for p in tmp_path.iterdir()] == ["fabric"]


def test_a_folder_with_something_in_it_stays_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    for root in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError, match="not an empty folder"):
            make_data(root, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        make_data(tmp_path / "file" / "parts", SMALL)


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, there: bool) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    root = tmp_path / "parts"
    if there:
        root.mkdir()
    with pytest.raises(KeyboardInterrupt):
        make_data(root, SMALL, progress=stop)
    assert [p.name for p in tmp_path.rglob("*")] == (["parts"] if there else [])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 16}, "64 to 1024"),
        ({"n_train": -1}, "n_train"),
        ({"seed": -1}, "seed"),
        ({"n_turned": -1}, "n_turned"),
        ({"categories": ()}, "at least one"),
        ({"categories": ("tile", "tile")}, "each once"),
        ({"categories": ("bottle",)}, "blister, fabric, flange, tile"),
    ],
)
def test_a_config_out_of_range_is_told_in_one_sentence(options: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        DemoConfig(**options)  # type: ignore[arg-type]


def test_unknown_names_list_what_is_allowed() -> None:
    with pytest.raises(InputError, match="blister, fabric, flange, tile"):
        render_good("bottle", np.random.default_rng(0))
    with pytest.raises(InputError, match="chip, crack"):
        render_defective("tile", "hole", np.random.default_rng(0))
