from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.errors import InputError
from mendiff.evaluation.baselines import fit_median_colour, fit_memory_bank
from mendiff.scoring.maps import gaussian_blur


def parts(count: int, seed: int = 0) -> Tensor:
    return 0.5 + 0.02 * torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def defective(seed: int = 1) -> Tensor:
    images = parts(2, seed)
    images[1, :, 10:16, 20:26] = 0.9
    return images


def features(images: Tensor) -> list[Tensor]:
    return [F.avg_pool2d(images, 2), F.avg_pool2d(images, 4).square()]


def test_the_median_colour_control_finds_a_bright_spot_where_it_is() -> None:
    scores, maps = fit_median_colour(parts(8)).predict(defective())

    assert scores.shape == (2,)
    assert maps.shape == (2, 1, 32, 32)
    assert scores[1] > 5 * scores[0]
    row, column = divmod(int(maps[1].argmax()), 32)
    assert 10 <= row < 16
    assert 20 <= column < 26


def test_the_median_colour_control_is_blind_to_the_colour_itself() -> None:
    control, image = fit_median_colour(parts(8)), defective()

    torch.testing.assert_close(
        control.predict(image)[1], control.predict(image + 0.1)[1], rtol=1e-3, atol=1e-4
    )


def test_the_median_colour_control_averages_three_blurs_in_units_of_their_deviation_on_good_images() -> None:
    good = parts(8)
    image = torch.zeros(1, 3, 65, 65)
    image[..., 32, 32] = 1.0

    _, maps = fit_median_colour(good).predict(image)

    residual = good - good.flatten(2).median(2).values[:, :, None, None]
    peak = 0.0
    for sigma in (0.0, 2.0, 4.0):
        gaussian = torch.exp(-(torch.arange(-32, 33.0) ** 2) / (2 * sigma**2)) if sigma else torch.ones(1)
        squares = gaussian_blur(residual, sigma).square().sum(1)
        peak += 3 / gaussian.sum().item() ** 4 / squares.std(correction=0).item() / 3
    assert maps[0, 0, 32, 32].item() == pytest.approx(peak, rel=1e-3)


def test_the_median_colour_control_needs_good_images() -> None:
    with pytest.raises(InputError, match="got none"):
        fit_median_colour(torch.zeros(0, 3, 32, 32))


def test_a_memory_bank_enlarges_images_that_are_too_small_for_its_features() -> None:
    class Backbone:
        least_side = 64
        sizes: ClassVar[set[int]] = set()

        def __call__(self, images: Tensor) -> list[Tensor]:
            self.sizes.add(images.shape[-1])
            return features(images)

    _, maps = fit_memory_bank(Backbone(), parts(4)).predict(defective())

    assert Backbone.sizes == {64}
    assert maps.shape == (2, 1, 32, 32)


def test_a_memory_bank_finds_what_good_images_do_not_show_where_it_is() -> None:
    bank = fit_memory_bank(features, parts(8))

    scores, maps = bank.predict(defective())

    assert maps.shape == (2, 1, 32, 32)
    assert scores[1] > 3 * scores[0]
    assert maps[1, 0, 8:18, 18:28].mean() > 2 * maps[1].mean()


def test_a_full_memory_bank_is_at_no_distance_from_its_own_images() -> None:
    images = parts(3)
    bank = fit_memory_bank(features, images, positions=10_000)

    assert bank.predict(images)[0].max() < 2e-3  # half precision


def test_a_memory_bank_keeps_the_same_positions_for_the_same_seed() -> None:
    first, again, other = (fit_memory_bank(features, parts(5), 20, seed).bank.vectors for seed in (4, 4, 5))

    assert first.shape == (20, 6)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_memory_bank_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()

    fit_memory_bank(features, parts(2), 10)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_prediction_does_not_depend_on_the_other_images() -> None:
    bank = fit_memory_bank(features, parts(4), 200)
    images = defective()

    together, alone = bank.predict(images)[1], bank.predict(images[1:])[1]

    # Sums over a vector may be ordered otherwise.
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-9)


def test_a_memory_bank_without_images_is_refused() -> None:
    with pytest.raises(InputError, match="needs good images"):
        fit_memory_bank(features, torch.zeros(0, 3, 32, 32))
