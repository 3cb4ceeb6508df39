"""Checks bit depth, size and orientation of images, and whether masks are inverted."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from mendiff.data.reading import DARK_BITS, image_size
from mendiff.data.samples import Category, Finding, ImageCheck, ImageChecks, Use

LARGEST, SMALLEST = 320, 64
"""Range of the image size, in pixels, that `mendiff fit` selects automatically."""
FACTOR = 4.0
"""Images that are resized by more than this factor are reported."""
OBLONG = 2.0
"""Images with a larger aspect ratio than this are reported if they are downsampled."""
TILE = 256
"""Side of tiles in pixels that messages propose for images that are not smaller."""
DEPTHS = (8, 10, 12, 14)
"""Bit depths of cameras and programs that write 16-bit files."""


def own_side(sides: list[int]) -> float:
    """Image size that `mendiff fit` selects automatically from the longer sides of some images."""
    return min(max(median(sides), SMALLEST), LARGEST)


def own_size(paths: Sequence[Path], multiple: int) -> int:
    """The typical longer side of the images, 64 to 320 pixels, rounded to a multiple of `multiple`."""
    side = own_side([max(image_size(path)) for path in paths[:200]])
    return max(multiple, math.floor(side / multiple + 0.5) * multiple)


def size_notes(category: Category, checks: ImageChecks, use: Use) -> Iterator[Finding]:
    """Images that are downsampled or upsampled by a large factor."""
    seen = [(path, check.header.size) for path, check in _checks(category, checks) if check.header]
    if use.image_size is None or use.tile or not seen:
        return
    side = use.image_size or round(own_side([max(size) for _, size in seen[:200]]))
    small = [(path, size) for path, size in seen if vanishing(size, side)]
    large = [(path, size) for path, size in seen if side > FACTOR * max(size)]
    for some in (small, large):
        if some:
            sign = 1 if some is small else -1
            path, size = max(some, key=lambda item: sign * max(item[1]))
            new = resized(size, side, letterbox=use.resize == "letterbox")
            many = "all" if len(some) == len(seen) else f"{len(some)} of {len(seen)}"
            which = f"{many} images, such as {path.name} of {size[1]}x{size[0]} pixels,"
            described = _downsampled(size, new, side) if some is small else _upsampled(size, side)
            sentence = f"{category.root}: {which} become {new[1]}x{new[0]}: {described}"
            yield Finding("size", False, sentence, tuple(path for path, _ in some))


def resized(size: tuple[int, int], side: int, *, letterbox: bool) -> tuple[int, int]:
    """(h, w) to which an (H,W) image is resized."""
    if not letterbox:
        return side, side
    height, width = (max(1, round(length * side / max(size))) for length in size)
    return height, width


def vanishing(size: tuple[int, int], side: int) -> int:
    """Smallest detail in pixels of an (H,W) image that survives resizing to `side`; 0 if nothing is lost."""
    height, width = size
    distorted = max(size) / max(1, min(size)) > OBLONG and max(size) > side
    return math.ceil(max(height, width) / side) if max(size) > FACTOR * side or distorted else 0


def _downsampled(size: tuple[int, int], new: tuple[int, int], side: int) -> str:
    across, down = (before / after for before, after in zip(reversed(size), reversed(new), strict=True))
    return (
        f"{across:.1f} times smaller in width and {down:.1f} times in height, so details below about "
        f"{vanishing(size, side)} pixels are lost; increase --image-size, or cut images into tiles with "
        f"--tile {min(TILE, max(SMALLEST, min(size) // 32 * 32))}, which keeps details but takes longer."
    )


def _upsampled(size: tuple[int, int], side: int) -> str:
    return (
        f"{side / max(size):.0f} times larger, which adds no detail; use larger images or a "
        "smaller --image-size."
    )


def depth_notes(category: Category, checks: ImageChecks, use: Use) -> Iterator[Finding]:
    """16-bit images with low values only, which are probably of a lower bit depth and appear nearly black."""
    deep = [
        (path, check.highest)
        for path, check in _checks(category, checks)
        if check.header and check.header.deep
    ]
    if use.reading.bit_depth or not deep:
        return
    sentence = dark_sentence(max(highest for _, highest in deep))
    if sentence:
        yield Finding(
            "dark", False, f"{category.root}: {len(deep)} images {sentence}", tuple(path for path, _ in deep)
        )


def dark_sentence(highest: int) -> str:
    """Warning about 16-bit images with a low highest value; empty if there is no problem."""
    if not 0 <= highest < 2**DARK_BITS:
        return ""
    bits = next(bits for bits in DEPTHS if highest < 2**bits)
    return (
        f"of 16 bits have a maximum of {highest} of 65535 and appear nearly black to a model; if their bit "
        f"depth is {bits}, fit with --bit-depth {bits}."
    )


def mask_notes(category: Category, checks: ImageChecks) -> Iterator[Finding]:
    """Masks that mark most of their image, probably because defects are black in them."""
    found = [
        (sample.masks[0], checks[sample.path, sample.masks].marked)
        for sample in category.test
        if not sample.is_good and sample.masks
    ]
    shares = [(mask, share) for mask, share in found if share]
    wide = [(mask, share) for mask, share in shares if share > 0.5]
    if not wide:
        return
    example, share = max(wide, key=lambda item: item[1] if item[1] < 1 else 0)
    masks = tuple(dict.fromkeys(mask for mask, _ in wide))
    # A mask that marks the whole image is not inverted: then the defect would be unmarked.
    if len(wide) == len(shares) and all(share < 1 for _, share in wide):
        sentence = (
            f"{category.root}: all {len(wide)} masks of {category.name} mark more than half of their image, "
            f"such as {example} ({share:.0%}); expected white defects, so invert them, or list the "
            "folders in a YAML file with 'inverted: true'."
        )
        yield Finding("inverted mask", True, sentence, masks)
        return
    sentence = (
        f"{category.root}: {len(wide)} of {len(shares)} masks of {category.name} mark more than half of "
        f"their image, such as {example} ({share:.0%}); invert those in which good pixels are white."
    )
    yield Finding("inverted mask", False, sentence, masks)


def orientation_notes(category: Category, checks: ImageChecks) -> Iterator[Finding]:
    """Masks of photos with an EXIF orientation that fit the stored and the displayed pixels."""
    ambiguous: list[tuple[Path, int]] = []
    for sample in category.test:
        check = checks[sample.path, sample.masks]
        if sample.mask_path is None or sample.is_good or check.header is None or not check.marked:
            continue
        orientation, (height, width) = check.header.orientation, check.header.size
        fits = orientation in (2, 3, 4) or (orientation in (5, 6, 7, 8) and height == width)
        if fits and not check.mask_turned:
            ambiguous.append((sample.path, orientation))
    if ambiguous:
        path, orientation = ambiguous[0]
        many = f"{len(ambiguous)} photos with masks have" if len(ambiguous) > 1 else "1 photo with a mask has"
        sentence = (
            f"{category.root}: {many} an EXIF orientation, such as {path} (orientation {orientation}); make "
            "sure that the masks were drawn on the upright photos."
        )
        yield Finding("orientation", False, sentence, tuple(path for path, _ in ambiguous))


def _checks(category: Category, checks: ImageChecks) -> Iterator[tuple[Path, ImageCheck]]:
    """Every image of a category once, with its check."""
    pairs: list[tuple[Path, tuple[Path, ...]]] = [(path, ()) for path in category.train]
    pairs += [(sample.path, sample.masks) for sample in category.test]
    for pair in dict.fromkeys(pairs):
        yield pair[0], checks[pair]
