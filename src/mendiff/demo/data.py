"""The demo data set: rendered parts in the layout of MVTec-AD."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mendiff.demo import blister, fabric, flange, tile
from mendiff.demo.geometry import TURNED, Field, Frame, make_frame
from mendiff.demo.shading import Pixels, Surface, draw_light, photograph, pool, shade
from mendiff.errors import InputError

Mask = NDArray[np.bool_]
Build = Callable[[Frame, str | None, np.random.Generator, np.random.Generator], tuple[Surface, Field]]

MIN_SIZE, MAX_SIZE = 64, 1024
SHIFT, ZOOM = 0.03, 0.02  # ranges of position and relative size


@dataclass(frozen=True)
class Part:
    """A kind of part.

    Attributes:
        build: function that builds it.
        defects: its local defect types.
        turn: range of normal rotations in degrees.
        turned: whether it also has the defect "turned": a rotation outside this range.
    """

    build: Build
    defects: tuple[str, ...]
    turn: float
    turned: bool = False


PARTS = {
    "blister": Part(blister.build, blister.DEFECTS, 5.0, turned=True),
    "fabric": Part(fabric.build, fabric.DEFECTS, 3.0),
    "flange": Part(flange.build, flange.DEFECTS, 6.0, turned=True),
    "tile": Part(tile.build, tile.DEFECTS, 5.0),
}
CATEGORIES = tuple(PARTS)
LOCAL_DEFECTS = {category: part.defects for category, part in PARTS.items()}
DEFECTS = {category: (*part.defects, *[TURNED] * part.turned) for category, part in PARTS.items()}


@dataclass(frozen=True)
class DemoConfig:
    """Size of the square images in pixels, and number of images per category.

    `n_defective` images are divided among the local defect types of a category. `n_turned` images are
    additional, for categories that have this defect, so the other images do not depend on it.
    Raises InputError if a count, the size, the seed or a category is out of range.
    """

    size: int = 160
    n_train: int = 60
    n_test_good: int = 12
    n_defective: int = 24
    categories: tuple[str, ...] = CATEGORIES
    seed: int = 0
    n_turned: int = 4

    def __post_init__(self) -> None:
        _check_size(self.size)
        for name in ("n_train", "n_test_good", "n_defective", "seed", "n_turned"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if not self.categories or len(set(self.categories)) < len(self.categories):
            raise InputError(f"categories must name at least one category, each once, got {self.categories}.")
        for category in self.categories:
            _check_category(category)


def render_good(category: str, rng: np.random.Generator, size: int = 160) -> Pixels:
    """Draw a good part: (size,size,3) uint8 sRGB. Equal states of `rng` give equal pictures.

    Raises InputError for an unknown category or a size out of range.
    """
    return _render(category, None, rng, size)[0]


def render_defective(
    category: str, defect: str, rng: np.random.Generator, size: int = 160
) -> tuple[Pixels, Mask]:
    """Draw a defective part: (size,size,3) uint8 sRGB and its mask (size,size), True on the defect.

    Part, pose, light and noise are the same as for `render_good` with the same state of `rng`.
    Raises InputError for an unknown category or defect or a size out of range.
    """
    _check_category(category)
    if defect not in DEFECTS[category]:
        allowed = ", ".join(DEFECTS[category])
        raise InputError(f"{category} has no defect {defect!r}; choose one of {allowed}.")
    return _render(category, defect, rng, size)


def make_data(
    root: Path, config: DemoConfig | None = None, progress: Callable[[int, int], None] | None = None
) -> None:
    """Draw the data set into `root`, a new or empty folder; `progress` is called with (done, total).

    Every image has its own generator, so an image depends only on the seed, its path and its size. A
    defective image has a mask and a clean twin, `CATEGORY/twin/DEFECT/NAME.png`: the same part, pose, light
    and noise without the defect. The folder is moved into place when it is complete. Raises InputError if
    `root` is not empty or cannot be written.
    """
    config = config or DemoConfig()
    root = Path(root).resolve()
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise InputError(f"{root} exists and is not an empty folder; name a new one or empty it.")
    home = root if root.exists() else root.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".mendiff-demo-", dir=home))
    except OSError as error:
        raise InputError(f"cannot write to {home} ({error.strerror}); name another folder.") from error
    try:
        _draw_all(staging / "data", config, progress)
        _move_in(staging / "data", root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _draw_all(folder: Path, config: DemoConfig, progress: Callable[[int, int], None] | None) -> None:
    folder.mkdir()  # with default permissions; the temporary folder is private
    todo = list(_list_images(config))
    for done, (category, split, defect, index) in enumerate(todo, 1):
        name = f"{defect or 'good'}/{index:03d}"
        place = f"{category}/{split}/{name}"
        state = [config.seed, *place.encode()]
        picture, mask = _render(category, defect, np.random.default_rng(state), config.size)
        _save(picture, folder / f"{place}.png")
        if defect is not None:
            _save(mask.astype(np.uint8) * 255, folder / category / "ground_truth" / f"{name}_mask.png")
            twin, _ = _render(category, None, np.random.default_rng(state), config.size)
            _save(twin, folder / category / "twin" / f"{name}.png")
        if progress is not None:
            progress(done, len(todo))


def _list_images(config: DemoConfig) -> Iterator[tuple[str, str, str | None, int]]:
    for category in config.categories:
        yield from ((category, "train", None, k) for k in range(config.n_train))
        yield from ((category, "test", None, k) for k in range(config.n_test_good))
        kinds = PARTS[category].defects
        for k in range(config.n_defective):
            yield category, "test", kinds[k % len(kinds)], k // len(kinds)
        yield from ((category, "test", TURNED, k) for k in range(config.n_turned * PARTS[category].turned))


def _save(pixels: Pixels, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _move_in(folder: Path, root: Path) -> None:
    if not root.exists():
        folder.rename(root)
        return
    for child in folder.iterdir():
        child.rename(root / child.name)


def _render(category: str, defect: str | None, rng: np.random.Generator, size: int) -> tuple[Pixels, Mask]:
    _check_category(category)
    _check_size(size)
    part = PARTS[category]
    # Separate streams, so that a defect does not change the part, its pose, light or noise.
    scene, body, noise, flaw = (np.random.default_rng(int(s)) for s in rng.integers(0, 2**63, size=4))
    turn = float(np.deg2rad(scene.uniform(-part.turn, part.turn)))
    shift = (scene.uniform(-SHIFT, SHIFT), scene.uniform(-SHIFT, SHIFT))
    frame = make_frame(size, turn, shift, scene.uniform(1 - ZOOM, 1 + ZOOM))
    light = draw_light(scene)
    surface, cover = part.build(frame, defect, body, flaw)
    return photograph(shade(surface, frame, light), noise), pool(cover) >= 0.5


def _check_category(category: str) -> None:
    if category not in PARTS:
        raise InputError(f"unknown category {category!r}; choose from {', '.join(CATEGORIES)}.")


def _check_size(size: int) -> None:
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"the image size must be {MIN_SIZE} to {MAX_SIZE} pixels, got {size}.")
