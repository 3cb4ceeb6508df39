import itertools
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from mendiff.errors import InputError
from mendiff.scoring.maps import (
    cosine_map,
    gaussian_blur,
    multi_scale_pixel_map,
    nearest_patch_map,
    pixel_map,
)
from mendiff.scoring.pyramid import PixelPyramid
from mendiff.scoring.readout import Readout, first_images, within_one_error
from mendiff.scoring.readout_config import Backward, Distance, ReadoutConfig
from mendiff.scoring.scales import logarithm as log_maps
from mendiff.scoring.score import top_k_mean, top_share_mean
from mendiff.scoring.whitening import ConditionalWhitening

CHANNELS = (12, 48)


def features(image):
    """Two layers without weights: blocks of 2 and of 4 pixels moved into channels."""
    return [F.pixel_unshuffle(image, 2), F.pixel_unshuffle(image, 4) ** 2]


def upsampled(maps, side=16):
    return [F.interpolate(one, (side, side), mode="bilinear", align_corners=True) for one in maps]


@pytest.fixture
def image(rng):
    return torch.rand(6, 3, 16, 16, generator=rng)


@pytest.fixture
def rebuilt(image, rng):
    """Reconstructions of two runs."""
    return [(image + scale * torch.randn(image.shape, generator=rng)).clamp(0, 1) for scale in (0.05, 0.2)]


def fitted(config, image, rebuilt, **options):
    readout = Readout(config, CHANNELS, len(rebuilt), **options)
    batches = [(image[:4], [one[:4] for one in rebuilt]), (image[4:], [one[4:] for one in rebuilt])]
    readout.fit(lambda: iter(batches), features)
    return readout


# Formulas.


def mean_square(ours, theirs):
    return (ours - theirs).square().mean(1, keepdim=True)


def mean_of_two(ours, theirs):
    return (nearest_patch_map(ours, theirs) + nearest_patch_map(ours, theirs, reverse=True)) / 2


@pytest.mark.parametrize(
    ("changes", "formula"),
    [
        ({"distance": "cosine"}, cosine_map),
        ({"distance": "nearest"}, nearest_patch_map),
        ({"distance": "nearest", "backward": "mean"}, mean_of_two),
        ({"distance": "nearest", "backward": "sum"}, lambda *pair: 2 * mean_of_two(*pair)),
        ({"distance": "whitened"}, mean_square),  # as long as it was not fitted
    ],
)
def test_map_adds_layers_and_averages_runs(image, rebuilt, changes, formula):
    readout = Readout(ReadoutConfig(sigma=0.0, **changes), CHANNELS, runs=2)
    got = readout.anomaly_map(image, rebuilt, features)
    runs = [
        sum(upsampled([formula(*pair) for pair in zip(features(image), features(one), strict=True)]))
        for one in rebuilt
    ]
    torch.testing.assert_close(got, sum(runs) / 2, rtol=1e-5, atol=1e-6)


def test_whitened_map_is_the_conditional_whitening_of_every_layer(image, rebuilt):
    readout = fitted(ReadoutConfig(distance="whitened", sigma=0.0), image, rebuilt[:1])
    expected = []
    for ours, theirs in zip(features(image), features(rebuilt[0]), strict=True):
        whitening = ConditionalWhitening(ours.shape[1])
        whitening.update(ours, theirs)
        whitening.finish()
        expected.append(whitening(ours, theirs))
    got = readout.anomaly_map(image, rebuilt[:1], features)
    torch.testing.assert_close(got, sum(upsampled(expected)), rtol=1e-3, atol=1e-4)


def test_pixel_term_reaches_v_times_the_largest_feature_distance(image, rebuilt):
    plain = ReadoutConfig(distance="cosine", sigma=0.0)
    with_pixels = ReadoutConfig(distance="cosine", sigma=0.0, pixel_weight=3.0)
    feature_map = Readout(plain, CHANNELS, 2).anomaly_map(image, rebuilt, features)
    got = Readout(with_pixels, CHANNELS, 2).anomaly_map(image, rebuilt, features) - feature_map
    pixels = sum(pixel_map(image, one) for one in rebuilt) / 2
    peak = feature_map.amax((1, 2, 3), keepdim=True)
    expected = 3 * peak * pixels / pixels.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.amax((1, 2, 3), keepdim=True), 3 * peak, rtol=1e-4, atol=1e-5)


def test_pixels_are_normalised_as_for_the_extractor(image, rebuilt):
    class Extractor:
        std = torch.tensor([0.1, 1.0, 1.0])[:, None, None]

        def __call__(self, picture):
            return features(picture)

    config = ReadoutConfig(distance="cosine", sigma=0.0, pixel_weight=1.0)
    readout = Readout(config, CHANNELS)
    got = readout.anomaly_map(image, rebuilt[:1], Extractor())
    plain = Readout(ReadoutConfig(distance="cosine", sigma=0.0), CHANNELS)
    feature_map = plain.anomaly_map(image, rebuilt[:1], features)
    pixels = ((image - rebuilt[0]).abs() * torch.tensor([10.0, 1, 1])[:, None, None]).mean(1, keepdim=True)
    scale = feature_map.amax((1, 2, 3), keepdim=True) / pixels.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(got, feature_map + scale * pixels, rtol=1e-4, atol=1e-5)


def test_map_is_smoothed_and_then_weighted_by_the_part(image, rebuilt):
    weight = torch.zeros(6, 1, 16, 16)
    weight[:, :, :8] = 1
    sharp = Readout(ReadoutConfig(sigma=0.0), CHANNELS, 2).anomaly_map(image, rebuilt, features)
    for taps in (0, 5):
        config = ReadoutConfig(sigma=1.5, taps=taps)
        got = Readout(config, CHANNELS, 2).anomaly_map(image, rebuilt, features, weight)
        torch.testing.assert_close(got, gaussian_blur(sharp, 1.5, taps or None) * weight)


def test_images_are_compared_at_the_configured_resolution(image, rebuilt):
    weight = torch.ones(6, 1, 16, 16)
    got = Readout(ReadoutConfig(resolution=8, sigma=0.0), CHANNELS).anomaly_map(
        image, rebuilt[:1], features, weight
    )
    small, other = (
        F.interpolate(one, (8, 8), mode="bilinear", align_corners=True) for one in (image, rebuilt[0])
    )
    same = Readout(ReadoutConfig(sigma=0.0), CHANNELS).anomaly_map(small, [other], features)
    assert got.shape == (6, 1, 8, 8)
    torch.testing.assert_close(got, same)


def test_sigma_share_scales_with_the_map(image, rebuilt):
    plain, fixed, shared = (
        Readout(ReadoutConfig(taps=0, **sigma), CHANNELS).anomaly_map(image, rebuilt[:1], features)
        for sigma in ({"sigma": 0.0}, {"sigma": 2.0}, {"sigma_share": 2 / 16})
    )
    torch.testing.assert_close(shared, fixed)
    assert not torch.allclose(shared, plain)


def test_score_averages_the_largest_pixels(rng):
    maps = torch.rand(3, 1, 20, 20, generator=rng)
    assert torch.equal(Readout(ReadoutConfig(top_k=7), CHANNELS).score(maps), top_k_mean(maps, 7))
    by_share = Readout(ReadoutConfig(top_k=0, top_share=0.1), CHANNELS)
    assert torch.equal(by_share.score(maps), top_share_mean(maps, 0.1))


# Standardising.


@pytest.mark.parametrize(("pixel_share", "logarithm"), [(0.0, False), (0.2, False), (0.2, True)])
@pytest.mark.parametrize("distance", get_args(Distance))
def test_standardised_maps_have_mean_0_and_deviation_1_on_the_fitted_images(
    image, rebuilt, distance, pixel_share, logarithm
):
    config = ReadoutConfig(
        distance=distance, standardise=True, pixel_share=pixel_share, logarithm=logarithm, sigma=0.0
    )
    readout = fitted(config, image, rebuilt)
    maps = readout._maps(image, rebuilt, features).flatten(1)
    assert len(maps) == 2 * (2 + (pixel_share > 0))
    standard = readout.scales(maps[:, None, None, None])[:, 0, 0, 0]
    torch.testing.assert_close(standard.mean(1), torch.zeros(len(maps)), rtol=0, atol=1e-4)
    torch.testing.assert_close(standard.std(1, correction=0), torch.ones(len(maps)), rtol=0, atol=1e-3)
    total = readout.anomaly_map(image, rebuilt, features).flatten()
    expected = (1 - pixel_share) * standard[:4].mean(0)
    if pixel_share:
        expected += pixel_share * standard[4:].mean(0)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("distance", get_args(Distance))
def test_local_share_weights_the_pyramid_against_the_features(image, rebuilt, distance):
    plain = ReadoutConfig(distance=distance, standardise=True, pixel_share=0.1, sigma=0.0)
    local = Readout(plain, PixelPyramid.channels, len(rebuilt))
    local.fit(lambda: [(image, rebuilt)], PixelPyramid())
    deep = Readout(plain, CHANNELS, len(rebuilt))
    both = Readout(replace(plain, local_share=0.3), CHANNELS, len(rebuilt))
    for readout in (deep, both):
        readout.fit(lambda: [(image, rebuilt)], features)
    alone = [one.anomaly_map(image, rebuilt, how) for one, how in ((deep, features), (local, PixelPyramid()))]
    expected = (0.6 * alone[0] + 0.3 * alone[1]) / 0.9  # pixels have their tenth in both
    together = both.anomaly_map(image, rebuilt, features)
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)


class Backbone:
    """Features of a backbone that wants images of 24 pixels."""

    least_side = 24

    def __call__(self, image):
        return features(image)


@pytest.mark.parametrize("distance", ["cosine", "nearest"])
def test_averaged_layers_are_a_single_map_per_run_before_standardising(image, rebuilt, distance):
    config = ReadoutConfig(distance, standardise=True, average_layers=True, local_share=0.25, sigma=0)
    readout = fitted(config, image, rebuilt)
    compare = {"cosine": cosine_map, "nearest": nearest_patch_map}[distance]

    def standardised_mean(describe, one):
        pairs = zip(describe(image), describe(one), strict=True)
        maps = torch.stack(upsampled([compare(ours, theirs) for ours, theirs in pairs])).mean(0)
        return (maps - maps.mean()) / maps.std(correction=0)

    expected = sum(
        (share / 2) * standardised_mean(describe, one)
        for one in rebuilt
        for describe, share in ((features, 0.75), (PixelPyramid(), 0.25))
    )
    found = readout.anomaly_map(image, rebuilt, features)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("enlarge", "size"), [(1, (24, 24)), (2, (32, 32)), (0, (16, 16))])
def test_images_too_small_for_the_backbone_are_enlarged_before_the_comparison(image, rebuilt, enlarge, size):
    config = ReadoutConfig(enlarge=enlarge, sigma=0.0)
    got = Readout(config, CHANNELS).anomaly_map(image, rebuilt[:1], Backbone())

    large, other = (
        F.interpolate(one, size, mode="bilinear", align_corners=True) for one in (image, rebuilt[0])
    )
    same = Readout(ReadoutConfig(sigma=0.0), CHANNELS).anomaly_map(large, [other], features)
    assert got.shape == (6, 1, *size)
    torch.testing.assert_close(got, same)


def test_enlarged_images_keep_their_aspect_ratio(image, rebuilt):
    oblong, other = image[..., :8], rebuilt[0][..., :8]
    got = Readout(ReadoutConfig(enlarge=1, sigma=0.0), CHANNELS).anomaly_map(oblong, [other], Backbone())

    assert got.shape == (6, 1, 24, 12)


@pytest.mark.parametrize("distance", ["whitened", "cosine"])
def test_scales_are_fitted_at_the_resolution_of_the_comparison(image, rebuilt, distance):
    config = ReadoutConfig(distance=distance, standardise=True, resolution=8, sigma=0.0)
    total = fitted(config, image, rebuilt[:1]).anomaly_map(image, rebuilt[:1], features)
    assert float(total.mean()) == pytest.approx(0, abs=1e-3)


def test_pixel_maps_are_the_multi_scale_maps_of_every_run(image, rebuilt):
    config = ReadoutConfig(distance="cosine", standardise=True, pixel_share=0.5)
    maps = Readout(config, CHANNELS, 2)._maps(image, rebuilt, features)
    for got, one in zip(maps[4:], rebuilt, strict=True):
        torch.testing.assert_close(got, multi_scale_pixel_map(image, one))


def test_logarithm_applies_to_every_map_before_standardising(image, rebuilt):
    config = ReadoutConfig(distance="cosine", standardise=True, pixel_share=0.5)
    plain = Readout(config, CHANNELS, 2)._maps(image, rebuilt, features)
    logs = Readout(replace(config, logarithm=True), CHANNELS, 2)._maps(image, rebuilt, features)
    torch.testing.assert_close(logs, log_maps(plain))


def test_whitening_uses_training_images_and_scales_use_held_back_images(image, rebuilt):
    config = ReadoutConfig(distance="whitened", standardise=True)
    seen = (image.flip(0) ** 2, [one.roll(1, 2) for one in rebuilt])
    readout = Readout(config, CHANNELS, 2)
    readout.fit(lambda: [(image, rebuilt)], features, lambda: [seen])
    expected = fitted(config, *seen)
    for ours, theirs in zip(readout._whitenings, expected._whitenings, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.root, theirs.root)
    maps = readout._maps(image, rebuilt, features).flatten(1)
    torch.testing.assert_close(readout.scales.mean, maps.mean(1), rtol=1e-4, atol=1e-5)


def test_mean_normal_maps_of_training_images_are_subtracted_before_scaling(image, rebuilt):
    config = ReadoutConfig(distance="cosine", standardise=True, logarithm=True, position_grid=8, sigma=0.0)
    seen = (image.flip(0) ** 2, [one.roll(1, 2) for one in rebuilt])
    readout = Readout(config, CHANNELS, 2)
    readout.fit(lambda: [(image, rebuilt)], features, lambda: [seen])
    normal = F.adaptive_avg_pool2d(readout._maps(*seen, features).mean(1), 8)
    torch.testing.assert_close(readout.scales.usual, gaussian_blur(normal, 1.0), rtol=1e-4, atol=1e-4)
    total = readout.anomaly_map(image, rebuilt, features)
    assert float(total.mean()) == pytest.approx(0, abs=1e-3)
    with pytest.raises(InputError, match=r"position_grid: expected 0, or standardise=true with it, got 8"):
        Readout(replace(config, standardise=False), CHANNELS, 2)


def test_fitted_scales_are_in_the_state_dict(image, rebuilt):
    config = ReadoutConfig(distance="whitened", standardise=True)
    readout, fresh = fitted(config, image, rebuilt), Readout(config, CHANNELS, 2)
    fresh.load_state_dict(readout.state_dict())
    for one, other in itertools.pairwise(r.anomaly_map(image, rebuilt, features) for r in (readout, fresh)):
        assert torch.equal(one, other)


# Neighbours.


@pytest.mark.parametrize("backward", get_args(Backward))
@pytest.mark.parametrize("distance", get_args(Distance))
def test_map_does_not_depend_on_the_batch(image, rebuilt, distance, backward):
    config = ReadoutConfig(
        distance=distance,
        backward=backward,
        pixel_weight=2.0,
        pixel_share=0.5,
        standardise=True,
        sigma=1.0,
        taps=0,
    )
    readout = fitted(config, image, rebuilt)
    together = readout.anomaly_map(image, rebuilt, features)
    alone = [
        readout.anomaly_map(image[i : i + 1], [one[i : i + 1] for one in rebuilt], features) for i in range(6)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(readout.score(together), readout.score(torch.cat(alone)))


def test_only_batch_maxima_make_maps_depend_on_the_batch(image, rebuilt):
    readout = Readout(ReadoutConfig(pixel_weight=2.0), CHANNELS, batch_maxima=True)
    together = readout.anomaly_map(image, rebuilt[:1], features)
    alone = readout.anomaly_map(image[:1], [rebuilt[0][:1]], features)
    assert not torch.allclose(together[:1], alone, rtol=1e-3)


# Errors.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": "l2"}, "nearest, cosine, whitened, got 'l2'"),
        ({"backward": "max"}, "none, sum, mean, got 'max'"),
        ({"pixel_share": 0.5}, "pixel_share: expected standardise=true"),
        ({"local_share": 0.5}, "local_share: expected standardise=true"),
        ({"bank_shares": (0.5,)}, "bank_shares: expected standardise=true"),
        ({"bank_shares": (0.5, 1.5), "standardise": True}, "0 to 1, got 1.5"),
        ({"bank_size": 0}, "bank_size: expected at least 1"),
        (
            {"local_share": 0.5, "pixel_share": 0.6, "standardise": True},
            "at most 1 together, got 0.6 and 0.5",
        ),
        ({"pixel_share": 1.5, "standardise": True}, "0 to 1, got 1.5"),
        ({"sigma_share": -1.0}, "sigma_share: expected 0 to 1, got -1.0"),
        ({"top_share": 5.0}, "top_share: expected 0 to 1, got 5.0"),
        ({"top_k": -1}, "top_k: expected at least 0, got -1"),
        ({"average_layers": True}, "average_layers: expected standardise=true"),
        (
            {"average_layers": True, "standardise": True, "distance": "whitened"},
            "other than 'whitened'",
        ),
        ({"taps": 8}, "taps: expected an odd kernel length, or 0, got 8"),
    ],
)
def test_invalid_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Readout(ReadoutConfig(**changes), CHANNELS)


@pytest.mark.parametrize("distance", ["whitened", "cosine"])
def test_fit_without_images_is_refused(distance):
    readout = Readout(ReadoutConfig(distance=distance, standardise=True), CHANNELS)
    with pytest.raises(InputError, match="at least one good image"):
        readout.fit(lambda: iter([]), features)


def test_memory_bank_and_reconstructions_have_the_same_unit_on_good_images(pictures):
    """The highest values of good images are equal, however different the two maps are."""
    maps = {}
    for share in (0.0, 0.25, 0.5, 1.0):
        config = ReadoutConfig(
            distance="cosine",
            standardise=True,
            bank_shares=(share,),
            bank_size=64,
            sigma=0.0,
            taps=0,
        )
        readout = Readout(config, CHANNELS)
        readout.fit(lambda: [(pictures, [pictures.flip(0)])], features)
        maps[share] = readout.anomaly_map(pictures, [pictures.flip(0)], features)
        highest = readout._highest
        weight = share / highest[1] / ((1 - share) / highest[0] + share / highest[1])
        assert float(readout.bank_share) == pytest.approx(float(weight), rel=1e-5)
    torch.testing.assert_close(maps[0.0].max(), highest[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps[1.0].max(), highest[1], rtol=1e-4, atol=1e-4)
    weight = highest[0] / (highest[0] + highest[1])
    first, second = (1 - weight) * maps[0.0], weight * maps[1.0]
    assert float(first.max()) == pytest.approx(float(second.max()), rel=1e-4)
    torch.testing.assert_close(maps[0.5], first + second, rtol=1e-4, atol=1e-4)


def test_memory_bank_contains_all_given_images(pictures):
    config = ReadoutConfig(distance="cosine", standardise=True, bank_shares=(1.0,), sigma=0.0, taps=0)
    readout = Readout(config, CHANNELS)
    some = [(pictures[:1], [pictures[:1]])]
    readout.fit(lambda: some, features, lambda: some, lambda: iter(pictures.split(1)))
    known = readout.bank(features(pictures), (32, 32))
    assert float(known.abs().max()) < 5e-3
    readout.fit(lambda: some, features, lambda: some)
    assert float(readout.bank(features(pictures), (32, 32)).max()) > 0.01


def test_without_an_image_the_map_is_that_of_a_readout_fitted_to_the_others(pictures, rng):
    config = ReadoutConfig(
        distance="cosine",
        standardise=True,
        position_grid=4,
        bank_shares=(0.5,),
        bank_size=256,
        sigma=0.0,
        taps=0,
    )
    rebuilt = (pictures + 0.1 * torch.rand(pictures.shape, generator=rng)).split(1)
    pairs = [(image, [one]) for image, one in zip(pictures.split(1), rebuilt, strict=True)]
    held, seen, others = pairs[:1], pairs[1:], [pairs[1], pairs[3]]
    readout, expected = Readout(config, CHANNELS), Readout(config, CHANNELS)
    readout.fit(lambda: held, features, lambda: seen)
    expected.fit(lambda: held, features, lambda: others)
    # The scales of a fit without the image differ, too; they come from held-back images.
    expected.scales.mean.copy_(readout.scales.mean)
    expected.scales.std.copy_(readout.scales.std)
    expected.bank_share.copy_(readout.bank_share)
    before = readout.anomaly_map(*pairs[2], features)

    with readout.without(1, *pairs[2], features):
        found = readout.anomaly_map(*pairs[2], features)

    torch.testing.assert_close(found, expected.anomaly_map(*pairs[2], features), rtol=1e-4, atol=1e-4)
    assert float(found.amax()) > float(before.amax())
    assert torch.equal(readout.anomaly_map(*pairs[2], features), before)


def test_statistics_of_training_images_leave_an_odd_image_out(rng):
    good = torch.rand(1, 3, 32, 32, generator=rng) + 0.02 * torch.rand(12, 3, 32, 32, generator=rng)
    good[4, :, 10:16, 10:16] = torch.tensor([5.0, -3.0, 1.0])[:, None, None]
    config = ReadoutConfig(
        distance="whitened", standardise=True, position_grid=4, bank_shares=(0.5,), bank_size=64
    )
    pairs = [(image, [image + 0.1]) for image in good.split(3)]
    others = [(image[None], [image[None] + 0.1]) for at, image in enumerate(good) if at != 4]
    readout, expected = Readout(config, CHANNELS), Readout(config, CHANNELS)
    readout.fit(lambda: pairs[:1], features, lambda: pairs)
    expected.fit(lambda: pairs[:1], features, lambda: others)
    assert readout.odd == (4,)
    kept, same = readout.state_dict(), expected.state_dict()
    assert all(torch.allclose(kept[key], same[key], rtol=1e-4, atol=1e-5) for key in kept)
    odd = (good[4:5], [good[4:5] + 0.1])
    with readout.without(4, *odd, features):
        left = readout.anomaly_map(*odd, features)
    torch.testing.assert_close(left, readout.anomaly_map(*odd, features))


def test_first_images_do_not_depend_on_the_batches(pictures):
    batches = [(pictures[:3], torch.arange(3)), (pictures[3:], torch.arange(3, 4))]
    for most in range(1, 6):
        found = [
            seed for image, seeds in first_images(lambda: iter(batches), most)() for seed in seeds.tolist()
        ]
        assert found == list(range(min(most, 4)))


def test_selected_bank_share_detects_the_defects(pictures):
    """Reconstructions equal to the images detect no defect; perfect reconstructions detect all."""
    config = ReadoutConfig(
        distance="cosine", standardise=True, bank_shares=(0.5, 0.0, 1.0), bank_size=64, sigma=0.0, taps=0
    )
    good = [
        (pictures, [pictures + 0.01 * torch.rand(pictures.shape, generator=torch.Generator().manual_seed(0))])
    ]
    bad, masks = pictures.clone(), torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    bad[:, :, 8:16, 8:16] = 1 - bad[:, :, 8:16, 8:16]
    masks[:, :, 8:16, 8:16] = True
    readout = Readout(config, CHANNELS)
    readout.fit(lambda: good, features)
    before = float(readout.bank_share)  # of the first, until a weight is chosen
    assert 0.0 < before < 1.0
    readout.choose_bank_share(lambda: good, lambda: [(bad, [bad])], masks, features)
    assert float(readout.bank_share) > 0.0
    blank = torch.Generator().manual_seed(1)
    noise = [(bad, [torch.rand(bad.shape, generator=blank)])]
    readout.choose_bank_share(lambda: good, lambda: noise, masks, features)
    assert float(readout.bank_share) == 1.0
    readout.choose_bank_share(lambda: good, lambda: [(bad, [pictures])], masks, features)
    assert float(readout.bank_share) < 1.0


def test_a_share_within_one_standard_error_of_the_best_is_as_good():
    def chosen(**criteria):
        return within_one_error({float(f"0.{at[1:]}"): torch.tensor(one) for at, one in criteria.items()})

    assert chosen(s0=[1.0, 1.4, 1.2], s5=[1.1, 1.2, 1.2], s9=[0.5, 0.6, 0.5]) == 0.5  # a draw
    assert chosen(s0=[1.4, 1.5, 1.4], s5=[1.1, 1.2, 1.2], s9=[0.5, 0.6, 0.5]) == 0.0  # better in every group
    assert chosen(s3=[1.0, 1.4], s7=[1.0, 1.4]) == 0.3  # equally near
    assert chosen(s0=[1.4], s5=[1.3]) == 0.0  # a single group has no error
