"""What thresholds from few good images are worth: false alarms and recall of fits from 5, 10 and 20 images.

    python benchmarks/few_images.py bottle metal_plate --draws 2

Every DATA is a category with test images. A fit gets a random part of its training images. All test images
and further training images that the fit did not get, up to `--fresh` good images, are scored. Prints what
`fit` states of each threshold, and a Markdown table of means over the draws.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import mendiff
from mendiff.data.dataset import Category, open_data


def main() -> None:
    """Fit, score and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 10, 20], help="good images of a fit")
    parser.add_argument("--draws", type=int, default=2, help="fits of each size")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--fresh", type=int, default=100, help="good images that are scored, at most")
    options = parser.parse_args()
    rows = []
    for data in options.data:
        (category,) = open_data(data)
        for size in options.sizes:
            found = [measured(category, size, draw, options) for draw in range(options.draws)]
            false_alarms, recall, rate = (fmean(column) for column in zip(*found, strict=True))
            rows.append(
                f"| {category.name} | {size} | {100 * rate:g} % | {100 * false_alarms:.1f} % "
                f"| {100 * recall:.1f} % |"
            )
    print("\n| data | good images | nominal rate | false alarms | recall |\n|---|---|---|---|---|")
    print("\n".join(rows))


def measured(
    category: Category, size: int, draw: int, options: argparse.Namespace
) -> tuple[float, float, float]:
    """(share of good images flagged, share of defective ones, nominal rate) of a fit from `size` images."""
    mixed = random.Random(draw).sample(category.train, len(category.train))
    fresh = [sample.path for sample in category.test if sample.is_good]
    fresh += mixed[size:][: max(0, options.fresh - len(fresh))]
    defective = [sample.path for sample in category.test if not sample.is_good]
    with TemporaryDirectory() as folder:
        good = Path(folder) / "good"
        good.mkdir()
        for path in mixed[:size]:
            (good / path.name).symlink_to(path.resolve())
        model = mendiff.fit(good, image_size=options.image_size, steps=options.steps, seed=draw, device="cpu")
    flagged, found = (flagged_share(model, paths) for paths in (fresh, defective))
    print(
        f"{category.name}, {size} images, draw {draw}: {flagged:.3f} of {len(fresh)} good and {found:.3f} of "
        f"{len(defective)} defective images are above {model.threshold:.4g}; {model.calibration.worth}",
        flush=True,
    )
    return flagged, found, model.calibration.false_alarm_rate


def flagged_share(model: mendiff.Model, paths: list[Path]) -> float:
    """Share of images above the threshold."""
    flagged = 0
    for first in range(0, len(paths), 8):
        flagged += int(model.predict(paths[first : first + 8]).defective.sum())
    return flagged / len(paths)


if __name__ == "__main__":
    main()
