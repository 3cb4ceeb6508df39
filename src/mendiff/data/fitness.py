"""Whether images and masks suit what they are for: depth, size, orientation, and a mask's right side."""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from mendiff.data.reading import DARK_BITS
from mendiff.data.samples import Category, Finding, Look, Looks, Use

LARGEST, SMALLEST = 320, 64
"""Sides in pixels between which `mendiff fit` chooses by itself."""
FACTOR = 4.0
"""Images shrunk or enlarged more than this along one side are told."""
OBLONG = 2.0
"""Images that are squeezed more than this along one side, against the other, are told."""
DEPTHS = (10, 12, 14)
"""Bits of cameras that write 16-bit files."""


def own_side(sides: list[int]) -> float:
    """The side that `mendiff fit` chooses by itself, from the longer sides of some images."""
    return min(max(median(sides), SMALLEST), LARGEST)


def size_notes(category: Category, looks: Looks, use: Use) -> Iterator[Finding]:
    """Images that a model makes so much smaller or larger that it matters."""
    seen = [(path, look.header.size) for path, look in _looks(category, looks) if look.header]
    if use.image_size is None or not seen:
        return
    side = use.image_size or round(own_side([max(size) for _, size in seen[:200]]))
    small = [(path, size) for path, size in seen if vanishing(size, side)]
    large = [(path, size) for path, size in seen if side > FACTOR * max(size)]
    for some in (small, large):
        if some:
            path, (height, width) = max(some, key=lambda one: max(one[1]) if some is small else -max(one[1]))
            many = "all" if len(some) == len(seen) else f"{len(some)} of {len(seen)}"
            which = f"{many} images, such as {path.name} of {width}x{height} pixels, become {side}x{side}"
            told = _shrunk if some is small else _enlarged
            sentence = f"{category.root}: {which}: {told((height, width), side)}"
            yield Finding("size", False, sentence, tuple(path for path, _ in some))


def vanishing(size: tuple[int, int], side: int) -> int:
    """Below how many pixels of an (H,W) image details vanish in a square of that side; 0 where it is few."""
    height, width = size
    squeezed = max(size) / max(1, min(size)) > OBLONG and max(size) > side
    return math.ceil(max(height, width) / side) if max(size) > FACTOR * side or squeezed else 0


def _shrunk(size: tuple[int, int], side: int) -> str:
    height, width = size
    return (
        f"{width / side:.1f} times smaller across and {height / side:.1f} times down, so that what is below "
        f"about {vanishing(size, side)} pixels vanishes; choose a larger --image-size or cut them into tiles."
    )


def _enlarged(size: tuple[int, int], side: int) -> str:
    return (
        f"{side / max(size):.0f} times as large as they are, with nothing to learn in between; use larger "
        "images, or a smaller --image-size."
    )


def depth_notes(category: Category, looks: Looks, use: Use) -> Iterator[Finding]:
    """16-bit images whose values are all so low that they have fewer bits, and are read as nearly black."""
    every = _looks(category, looks)
    deep = [(path, look.highest) for path, look in every if look.header and look.header.deep]
    if use.bit_depth or not deep:
        return
    sentence = dark_sentence(max(highest for _, highest in deep))
    if sentence:
        yield Finding(
            "dark", False, f"{category.root}: {len(deep)} images {sentence}", tuple(path for path, _ in deep)
        )


def dark_sentence(highest: int) -> str:
    """What is to be said of 16-bit images by their highest value; nothing where that is usual."""
    if not 0 <= highest < 2**DARK_BITS:
        return ""
    bits = next(bits for bits in DEPTHS if highest < 2**bits)
    return (
        f"of 16 bits have a brightest value of {highest} of 65535, so that they are nearly black to a model; "
        f"if {bits} bits are all there is, fit with --bit-depth {bits}."
    )


def mask_notes(category: Category, looks: Looks) -> Iterator[Finding]:
    """Masks that mark most of their image, as those do in which black is the defect."""
    masks = {
        sample.mask_path: looks[sample.path, sample.mask_path].marked
        for sample in category.test
        if not sample.is_good and sample.mask_path is not None
    }
    shares = {mask: share for mask, share in masks.items() if share}
    wide = {mask: share for mask, share in shares.items() if share > 0.5}
    if not wide:
        return
    example, share = max(wide.items(), key=lambda one: one[1] if one[1] < 1 else 0)
    # A mask of the whole image is none that was inverted: such a one spares the defect.
    if len(wide) == len(shares) and all(share < 1 for share in wide.values()):
        sentence = (
            f"{category.root}: all {len(wide)} masks of {category.name} mark more than half of their image, "
            f"such as {example} ({share:.0%}); expected white where a defect is, so invert them."
        )
        yield Finding("inverted mask", True, sentence, tuple(wide))
        return
    sentence = (
        f"{category.root}: {len(wide)} of {len(shares)} masks of {category.name} mark more than half of "
        f"their image, such as {example} ({share:.0%}); invert them where white is what is good."
    )
    yield Finding("inverted mask", False, sentence, tuple(wide))


def orientation_notes(category: Category, looks: Looks) -> Iterator[Finding]:
    """Masks of turned photos that would fit the unturned pixels as well: nobody can tell which was meant."""
    unsure: list[tuple[Path, int]] = []
    for sample in category.test:
        look = looks[sample.path, sample.mask_path]
        if sample.mask_path is None or sample.is_good or look.header is None or not look.marked:
            continue
        orientation, (height, width) = look.header.orientation, look.header.size
        fits = orientation in (2, 3, 4) or (orientation in (5, 6, 7, 8) and height == width)
        if fits and not look.mask_turned:
            unsure.append((sample.path, orientation))
    if unsure:
        path, orientation = unsure[0]
        many = f"{len(unsure)} photos with masks are" if len(unsure) > 1 else "1 photo with a mask is"
        sentence = (
            f"{category.root}: {many} stored turned, such as {path} (EXIF orientation {orientation}); make "
            "sure that masks were drawn on the upright photos, as nothing tells."
        )
        yield Finding("orientation", False, sentence, tuple(path for path, _ in unsure))


def _looks(category: Category, looks: Looks) -> Iterator[tuple[Path, Look]]:
    """Every image of a category once, with its look."""
    pairs: list[tuple[Path, Path | None]] = [(path, None) for path in category.train]
    pairs += [(sample.path, sample.mask_path) for sample in category.test]
    for pair in dict.fromkeys(pairs):
        yield pair[0], looks[pair]
