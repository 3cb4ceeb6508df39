"""How many good images `mendiff check` names, and how many defective ones that are compared with them.

python benchmarks/odd_images.py mvtec/bottle mvtec/screw
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path

from torch import Tensor

from mendiff.data import outliers
from mendiff.data.dataset import open_data
from mendiff.data.reading import AS_STORED
from mendiff.data.samples import Category
from mendiff.runs.odd_images import Described, odd_images, odd_notes, ranked
from mendiff.scoring.odd_images import Positions, farthest


def defects_named(category: Category) -> int:
    """Number of defective test images that are outliers among the good images and themselves."""
    describe = Described(AS_STORED)
    known = {index: describe(path) for index, path in enumerate(category.good)}
    positions = Positions(known)

    def distance(vectors: Tensor, index: int = -1) -> float:
        return farthest(positions.distances(vectors, index))

    good = [(path, distance(known[index], index)) for index, path in enumerate(category.good)]
    count = 0
    for sample in category.test:
        if not sample.is_good:
            odd = ranked([*good, (sample.path, distance(describe(sample.path)))])
            mixed = dataclasses.replace(category, train=(*category.train, sample.path))
            plain = {path for note in outliers.unlike_images(mixed) for path in note.paths}
            count += sample.path in plain or any(one.far and one.path == sample.path for one in odd)
    return count


def main() -> None:
    """Print a row of a table for every category."""
    outliers._described = functools.cache(outliers._described)
    print("| data | good images | named | defective images | named |\n|---|---|---|---|---|")
    for data in sys.argv[1:]:
        for category in open_data(Path(data)):
            named = {path for note in odd_notes(category, odd_images(category)) for path in note.paths}
            bad = sum(not sample.is_good for sample in category.test)
            row = (category.name, len(category.good), len(named), bad, defects_named(category))
            print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
