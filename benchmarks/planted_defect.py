"""What a memory bank finds when a defect is among its good images, with and without the rule for odd images.

    python benchmarks/planted_defect.py mvtec/bottle mpdd/metal_plate

For every kind of defect, each of its first two test images in turn joins the training images. Its own score
and the median score of the others of its kind are given as multiples of the highest score of good test
images. Features are those that come with mendiff, at 256 pixels. Prints a Markdown table of means.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor

from mendiff.checkpoints.bundled import open_features
from mendiff.data.dataset import Category, open_data
from mendiff.data.images import resize
from mendiff.data.reading import read_image
from mendiff.nets.features import STAGES
from mendiff.scoring import bank as bank_module
from mendiff.scoring.bank import PatchBank
from mendiff.scoring.maps import gaussian_blur
from mendiff.scoring.score import top_share_mean

SIDE, SIZE, PLANTED = 256, 10_000, 2
SHARE = 0.002
Layers = list[Tensor]


class Bench:
    """Features of the images of a category, and banks of them."""

    def __init__(self) -> None:
        self._features, self._known = open_features(STAGES), dict[Path, Layers]()

    @torch.no_grad()
    def layers(self, path: Path) -> Layers:
        """The features of an image, computed once."""
        if path not in self._known:
            image = resize(read_image(path), SIDE)[None]
            self._known[path] = [one.half() for one in self._features(image)]
        return [one.float() for one in self._known[path]]

    def bank(self, paths: list[Path], *, keep: bool = False) -> PatchBank:
        """A bank of images; `keep` has odd images, too."""
        made = PatchBank([one.shape[1] for one in self.layers(paths[0])], SIZE)
        rule = bank_module.surely_odd
        try:
            bank_module.surely_odd = (lambda images: []) if keep else rule
            made.fit((self.layers(path), (SIDE, SIDE)) for path in paths)
        finally:
            bank_module.surely_odd = rule
        return made

    def scores(self, bank: PatchBank, paths: list[Path]) -> list[float]:
        """The score of every image."""
        maps = [bank(self.layers(path), (SIDE, SIDE)) for path in paths]
        large = [torch.nn.functional.interpolate(one, size=(SIDE, SIDE), mode="bilinear") for one in maps]
        return [float(top_share_mean(gaussian_blur(one, 4.0), SHARE)) for one in large]


def rows(category: Category) -> list[tuple[bool, list[float], list[float]]]:
    """(whether left out, own scores, others' scores) per planted defect: without it, kept, by the rule."""
    bench, train = Bench(), list(category.train)
    good = [one.path for one in category.test if one.is_good]
    clean = bench.bank(train)
    found = []
    for kind in sorted({one.label for one in category.test if not one.is_good}):
        paths = [one.path for one in category.test if one.label == kind]
        for planted in paths[:PLANTED]:
            others = [path for path in paths if path != planted]
            banks = [clean, bench.bank([*train, planted], keep=True), bench.bank([*train, planted])]
            highest = [max(bench.scores(one, good)) for one in banks]
            own = [bench.scores(one, [planted])[0] / top for one, top in zip(banks, highest, strict=True)]
            rest = [median(bench.scores(one, others)) / top for one, top in zip(banks, highest, strict=True)]
            found.append((len(train) in banks[2].odd, own, rest))
    return found


def main() -> None:
    """Print the table."""
    print(
        "| data | left out | own score: clean / kept / by the rule | others of its kind |\n|---|---|---|---|"
    )
    for data in sys.argv[1:]:
        for category in open_data(Path(data)):
            found = rows(category)
            own, rest = (
                " / ".join(f"{fmean(one[at][way] for one in found):.2f}" for way in range(3)) for at in (1, 2)
            )
            left = sum(one[0] for one in found)
            print(f"| {category.name} | {left} of {len(found)} | {own} | {rest} |", flush=True)


if __name__ == "__main__":
    main()
