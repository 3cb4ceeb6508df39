import numpy as np
import pytest
import torch

from mendiff.runtime import upright as runtime
from mendiff.synthesis import upright
from mendiff.synthesis.foreground import foreground

CONSTANTS = ("LONG", "SKEWED", "SMALLEST", "LARGEST", "TAIL", "ROUNDED")


def part(angle, side=64, noise=0.02, tail=7):
    """A peg with a thick and a thin end, bright on dark."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = (np.abs(along - 2) < 22) & (np.abs(across) < np.where(along > 5, tail / 2, tail))
    image = np.where(inside, 0.85, 0.1)[None] + noise * np.random.default_rng(0).random((3, side, side))
    return image.astype(np.float32)


IMAGES = {
    **{f"peg at {angle}": part(angle) for angle in (-2.5, -0.7, 0.0, 0.4, 1.9, 3.0)},
    "dark peg": 1 - part(0.9),
    "bar": part(0.3, tail=2.5),
    "disc": np.where(np.hypot(*np.mgrid[-32:32, -32:32]) < 20, 0.9, 0.1)[None]
    .repeat(3, 0)
    .astype(np.float32),
    "noise": np.random.default_rng(1).random((3, 64, 64), dtype=np.float32),
    "one colour": np.full((3, 64, 64), 0.5, np.float32),
}


def test_constants_are_those_of_the_package():
    assert all(getattr(runtime, name) == getattr(upright, name) for name in CONSTANTS)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_alignment_equals_that_of_the_package(image):
    tensor = torch.from_numpy(image)[None]
    np.testing.assert_array_equal(runtime.foreground(image), foreground(tensor)[0].numpy())
    for ours, theirs in zip(runtime.alignment(image), upright.alignment(tensor), strict=True):
        np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=0, atol=1e-6)


def test_only_certain_poses_are_aligned():
    still = np.eye(2, 3, dtype=np.float32)
    assert not np.array_equal(runtime.alignment(IMAGES["peg at 0.4"])[0], still)
    for name in ("disc", "noise", "one colour"):
        np.testing.assert_array_equal(runtime.alignment(IMAGES[name])[0], still)
