"""Contract tests of all methods."""

import dataclasses
import json

import pytest
import torch

from mendiff.calibration import Calibration
from mendiff.checkpoints import store
from mendiff.checkpoints.bundled import resolved
from mendiff.diffusion.random import PerImageRandom, content_seeds
from mendiff.errors import InputError
from mendiff.methods.base import METHODS, describe_parameters, find_method, find_preset
from mendiff.methods.config import config_from_dict, config_to_dict, override
from mendiff.model import calibrated
from mendiff.runs.variants import variant_of
from mendiff.types import Detection

pytestmark = pytest.mark.parametrize("name", METHODS)
SEEDS = torch.tensor([11, 5, 2**62, 0])


FULL = {
    "glad": {
        "own_stop_features": True,
        "adaptive": True,
        "readout.local_share": 0.4,
        "features.name": "test_resnet",
    },
    "diad": {"readout.local_share": 0.4, "features.name": "test_resnet"},
    "ran": {"readout.distance": "mahalanobis", "features.name": "test_resnet", "enlarge": 0},
}
"""Changes of the preset "tiny" that give a method all parts of all presets."""


def columns(found):
    return {field.name: getattr(found, field.name) for field in dataclasses.fields(Detection)}


def same(one, other, **tolerance):
    for key, value in columns(one).items():
        torch.testing.assert_close(value, columns(other)[key], **(tolerance or {"rtol": 0, "atol": 0}))


def held_back(pictures):
    """Good images for fit_statistics, in two batches."""
    return lambda: iter([(pictures[:3], SEEDS[:3]), (pictures[3:], SEEDS[3:])])


@pytest.fixture
def method(name, tiny_method):
    return tiny_method(name)


@pytest.fixture
def full(name, tiny_method):
    """A method with every part that it can have, with random weights in all of them."""
    made = tiny_method(name, FULL[name])
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in made.parts.values():
            for one in part.parameters():
                one.add_(0.02 * torch.randn(one.shape, generator=rng))
    return made


def test_detections_have_their_shapes_types_and_ranges(method, pictures):
    found = method.predict(pictures, SEEDS)
    shapes = {key: tuple(value.shape) for key, value in columns(found).items()}
    assert shapes == {
        "score": (4,),
        "anomaly_map": (4, 1, 32, 32),
        "reconstruction": (4, 3, 32, 32),
        "stop_step": (4,),
    }
    types = {key: value.dtype for key, value in columns(found).items()}
    assert types.pop("stop_step") == torch.int64
    assert set(types.values()) == {torch.float32}
    for value in columns(found).values():
        assert bool(value.isfinite().all())
        assert not value.requires_grad
    assert float(found.reconstruction.min()) >= 0
    assert float(found.reconstruction.max()) <= 1
    # The score is on the map's own scale.
    assert bool((found.score <= found.anomaly_map.amax((1, 2, 3)) + 1e-5).all())
    assert bool((found.score >= found.anomaly_map.amin((1, 2, 3)) - 1e-5).all())


def test_fitting_statistics_reports_progress_without_changing_the_result(full, pictures):
    full.fit_statistics(held_back(pictures), held_back(pictures.flip(0)))
    silent = full.predict(pictures, SEEDS)
    reported = []
    full.fit_statistics(
        held_back(pictures),
        held_back(pictures.flip(0)),
        lambda title, *counts: reported.append((title, counts)),
    )
    same(silent, full.predict(pictures, SEEDS))
    assert reported
    for title in {title for title, _ in reported}:
        steps = [counts for one, counts in reported if one == title]
        total = steps[0][1]
        assert steps == [(number, total, "") for number in range(1, total + 1)] * (len(steps) // total)


def test_detection_does_not_depend_on_the_batch(method, pictures):
    method.fit_statistics(held_back(pictures))
    together = method.predict(pictures, SEEDS)
    alone = [method.predict(pictures[i : i + 1], SEEDS[i : i + 1]) for i in range(4)]
    joined = Detection(**{key: torch.cat([columns(one)[key] for one in alone]) for key in columns(together)})
    same(together, joined, rtol=1e-5, atol=1e-5)


def test_variant_of_a_fitted_model_keeps_all_trained_state(method, name, pictures):
    faint = 0.4 + pictures / 10  # progress from the contrast and scale that a new network takes for granted
    method.prepare(held_back(faint))
    seen, apart = [*faint, *faint.flip(-1)], [*faint.flip(-2)]
    model = calibrated(name, method, {}, apart, seen, 4)
    changed = variant_of(model, {"training.steps": 7}, apart, seen)
    same(changed.predict(list(faint)), model.predict(list(faint)), rtol=1e-3, atol=1e-3)


def test_variant_keeps_all_state_except_statistics(full, name, pictures):
    seen, apart = [*pictures, *pictures.flip(-1)], [*pictures.flip(-2)]
    full.prepare(held_back(torch.stack(seen[:4])))
    model = calibrated(name, full, {}, apart, seen, 4)
    before = {key: one.clone() for key, one in model.method.state_dict().items()}
    changed = variant_of(model, {"training.steps": 7}, apart[:3], seen[:5])
    after = changed.method.state_dict()
    assert after.keys() == before.keys()
    kept = [key for key in before if not full.is_statistic(key)]
    assert all(torch.equal(before[key], after[key]) for key in kept)
    assert {key.partition(".")[0] for key in kept} >= {*full.parts} - {"codec"}  # which has no weights here
    assert not all(torch.equal(before[key], after[key]) for key in before)


def test_fit_statistics_changes_exactly_the_declared_statistics(full, pictures):
    assert all(hasattr(full, attribute) for attribute in (*full.NETWORKS, *full.STATISTICS))
    assert not set(full.NETWORKS) & set(full.STATISTICS)
    before = {key: one.clone() for key, one in full.state_dict().items()}
    full.prepare(held_back(pictures))
    prepared = {key: one.clone() for key, one in full.state_dict().items()}
    assert not any(full.is_statistic(key) for key in before if not torch.equal(before[key], prepared[key]))
    full.fit_statistics(held_back(pictures))
    taught = {key for key, one in full.state_dict().items() if not torch.equal(one, prepared[key])}
    assert taught
    assert all(full.is_statistic(key) for key in taught)
    assert {key.partition(".")[0] for key in taught} == set(full.STATISTICS)


@pytest.mark.slow
def test_tests_cover_all_parts_of_all_presets(full, name):
    parts = set()
    for config in find_method(name).PRESETS.values():
        with torch.device("meta"):
            made = find_method(name)(resolved(config))
        parts |= {key.partition(".")[0] for key in made.state_dict()}
    assert parts <= {key.partition(".")[0] for key in full.state_dict()} | {"codec"}


def test_equal_seeds_give_equal_detections_and_other_seeds_do_not(method, pictures):
    first = method.predict(pictures, SEEDS)
    same(first, method.predict(pictures, SEEDS))
    assert not torch.equal(first.anomaly_map, method.predict(pictures, SEEDS + 1).anomaly_map)


def test_equal_generators_give_equal_losses_and_other_generators_do_not(method, pictures, streams):
    losses = [method.training_loss(pictures, streams(4, seed)).item() for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_loss_of_a_batch_is_the_mean_over_its_images(method, pictures):
    method.train()
    whole = method.training_loss(pictures, PerImageRandom(SEEDS))
    parts = [method.training_loss(pictures[rows], PerImageRandom(SEEDS[rows])) for rows in ([0, 2], [1, 3])]
    torch.testing.assert_close(whole, torch.stack(parts).mean(), rtol=1e-5, atol=1e-6)


def test_global_rng_is_unchanged(method, pictures, streams, global_rng_untouched):
    method.fit_statistics(held_back(pictures))  # libraries that are imported for it may draw
    with global_rng_untouched():
        method.training_loss(pictures, streams())
        method.predict(pictures, SEEDS)
        method.fit_statistics(held_back(pictures))


def test_inputs_are_unchanged(method, pictures, streams):
    image, seeds = pictures.clone(), SEEDS.clone()
    method.training_loss(image, streams())
    method.predict(image, seeds)
    assert torch.equal(image, pictures)
    assert torch.equal(seeds, SEEDS)


def test_gradients_reach_exactly_the_trainable_parameters(method, pictures, streams):
    method.train()
    for seed in range(4):
        loss = method.training_loss(pictures, streams(4, seed))
        assert loss.shape == ()
        assert bool(loss.isfinite())
        loss.backward()
    trainable = {key for key, one in method.named_parameters() if one.requires_grad}
    reached = {
        key
        for key, one in method.named_parameters()
        if one.grad is not None and bool(one.grad.isfinite().all()) and bool(one.grad.any())
    }
    assert trainable
    assert reached == trainable
    assert describe_parameters(method)["trained"] == sum(
        one.numel() for key, one in method.named_parameters() if key in trainable
    )


def test_training_lowers_the_loss(method, pictures, streams):
    method.train()
    trained = [one for one in method.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-3)

    def loss():
        return method.training_loss(pictures.repeat(4, 1, 1, 1), streams(16))

    before = loss().item()
    for _ in range(20):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert loss().item() < 0.8 * before


def test_saving_and_loading_gives_bit_equal_detections(name, method, pictures, tmp_path):
    method.fit_statistics(held_back(pictures))
    store.save(tmp_path / "model", name, method, Calibration((1.0, 2.0), (3.0, 4.0)), {})
    loaded = store.load(tmp_path / "model")
    assert loaded.method.config == method.config
    same(method.predict(pictures, SEEDS), loaded.method.predict(pictures, SEEDS))


def test_model_with_all_parts_survives_saving_and_loading(name, full, pictures, tmp_path):
    full.fit_statistics(held_back(pictures))
    store.save(tmp_path / "model", name, full, Calibration((1.0, 2.0), (3.0, 4.0)), {})
    loaded = store.load(tmp_path / "model").method
    own = loaded.state_dict()
    assert all(torch.equal(own[key], one) for key, one in full.state_dict().items())
    same(full.predict(pictures, SEEDS), loaded.predict(pictures, SEEDS))


def test_infinite_state_is_declared(full):
    infinite = {key for key, one in full.state_dict().items() if not bool(one.isfinite().all())}
    assert infinite <= set(full.INFINITE)
    assert all(key in full.state_dict() for key in full.INFINITE)


def test_statistics_change_no_trained_weight(method, pictures):
    before = {key: one.clone() for key, one in method.named_parameters()}
    method.fit_statistics(held_back(pictures))
    for key, one in method.named_parameters():
        assert torch.equal(one, before[key])


def test_fitting_statistics_twice_gives_the_same(method, pictures):
    method.fit_statistics(held_back(pictures))
    once = {key: one.clone() for key, one in method.state_dict().items()}
    method.fit_statistics(held_back(pictures))
    for key, one in method.state_dict().items():
        torch.testing.assert_close(one, once[key], rtol=1e-5, atol=1e-6)


def test_prediction_works_on_sizes_other_than_the_configs(method, pictures):
    side = 2 * method.size_multiple
    image = torch.nn.functional.interpolate(pictures, (side, 2 * side))
    found = method.predict(image, SEEDS)
    assert found.anomaly_map.shape == (4, 1, side, 2 * side)
    assert bool(found.score.isfinite().all())


def test_unsuitable_image_size_is_refused(method, pictures):
    with pytest.raises(InputError, match="image size"):
        method.predict(pictures[:, :, :31, :29], SEEDS)


def test_every_preset_survives_json(name):
    kind = find_method(name)
    for config in kind.PRESETS.values():
        plain = json.loads(json.dumps(config_to_dict(config)))
        assert config_from_dict(kind.Config, plain) == config


def test_trace_contains_the_result_of_predict_and_does_not_change_the_method(
    method, pictures, global_rng_untouched
):
    method.fit_statistics(held_back(pictures))
    before = {key: one.clone() for key, one in method.state_dict().items()}
    defective = pictures.clone()
    defective[:, :, 8:20, 8:20] = 1.0
    for image, seed in zip([*pictures[:2], *defective[:2]], SEEDS, strict=True):
        expected = method.predict(image[None], seed[None])
        with global_rng_untouched():
            traced = method.trace(image[None], seed[None])
        same(traced.found, expected)
        same(method.predict(image[None], seed[None]), expected)
    assert all(torch.equal(one, before[key]) for key, one in method.state_dict().items())


def test_panels_of_a_trace_have_valid_pictures_maps_and_texts(full, pictures):
    full.fit_statistics(held_back(pictures))
    panels = full.trace(pictures[:1], SEEDS[:1]).panels
    assert panels
    for panel in panels:
        assert panel.stage
        assert panel.caption
        assert panel.pixels.ndim == 3
        assert not panel.pixels.requires_grad
        assert bool(panel.pixels.isfinite().all())
        assert panel.span[0] <= panel.span[1]
        if len(panel.pixels) == 3:
            assert float(panel.pixels.min()) >= 0
            assert float(panel.pixels.max()) <= 1
        else:
            assert len(panel.pixels) == 1
    json.dumps([(one.t, one.score, one.limit, one.span, one.note) for one in panels], allow_nan=False)


def test_trace_refuses_several_images_and_unsuitable_sizes(method, pictures):
    with pytest.raises(InputError, match="trace: expected one image, got 4"):
        method.trace(pictures, SEEDS)
    with pytest.raises(InputError, match="image size"):
        method.trace(pictures[:1, :, :31, :29], SEEDS[:1])


def test_unknown_field_is_refused(name):
    kind = find_method(name)
    plain = config_to_dict(find_preset(name, "tiny"))
    with pytest.raises(InputError, match=r"config: expected some of .*image_size.*, got 'imagesize'"):
        config_from_dict(kind.Config, plain | {"imagesize": 3})
    with pytest.raises(InputError, match=r"config.training: expected some of .*, got 'step'"):
        config_from_dict(kind.Config, plain | {"training": {"step": 3}})


def test_unknown_preset_is_refused(name):
    with pytest.raises(InputError, match=f"expected one of tiny.* for {name}, got 'huge'"):
        find_preset(name, "huge")


def test_preset_small_trains_and_predicts(name, pictures, streams):
    changes = {
        "image_size": 64,
        "training.batch_size": 2,
        **({} if name == "ran" else {"sampler_steps": 2, "readout.bank_size": 200}),
        **({"start_timesteps": [10, 400], "window": 0} if name == "ran" else {}),
    }
    config = override(find_preset(name, "small"), changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = find_method(name)(resolved(config))
    image = torch.nn.functional.interpolate(pictures, (64, 64), mode="bicubic").clamp(0, 1)
    made.prepare(lambda: iter([(image, SEEDS)]))
    loss = made.train().training_loss(image[:2], streams(2))
    loss.backward()
    trained = [one for one in made.parameters() if one.requires_grad]
    assert bool(loss.isfinite())
    assert sum(one.grad is not None and bool(one.grad.any()) for one in trained) > len(trained) / 2
    made.eval().fit_statistics(lambda: iter([(image, SEEDS)]))
    found = made.predict(image[:1], SEEDS[:1])
    assert found.anomaly_map.shape == (1, 1, 64, 64)
    assert all(bool(one.isfinite().all()) for one in columns(found).values())


def leaning(side=32):
    """(4,3,S,S): a peg with a head at four angles, on white."""
    at = (torch.arange(side) * 2 + 1) / side - 1
    made = []
    for angle in torch.tensor([0.0, 1.5, 3.0, -1.5]):
        rows, columns = torch.meshgrid(at, at, indexing="ij")
        along, across = columns * angle.cos() + rows * angle.sin(), rows * angle.cos() - columns * angle.sin()
        peg = (along.abs() < 0.7) & (across.abs() < 0.12) | ((along + 0.5).abs() < 0.2) & (across.abs() < 0.3)
        made.append(torch.where(peg, 0.2, 0.9).expand(3, -1, -1))
    return torch.stack(made)


def test_rotated_parts_are_processed_upright_and_located_in_the_original_image(name, tiny_method):
    method, images = tiny_method(name, {"upright": "auto"}), leaning()
    method.decide_upright(images.split(2))
    assert method.config.upright == "always"
    assert float((method.frame(images).image - images[:1]).abs().mean()) < 0.1
    model = calibrated(name, method, {}, list(images), batch_size=4)
    found = model.predict_batch(images)
    seen = model.method.frame(images)
    inside = model.method.predict(seen.image, content_seeds(images))
    torch.testing.assert_close(found.score, inside.score)
    same(found, seen.undo(inside), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found.anomaly_map, inside.anomaly_map)


def test_images_with_equal_orientation_are_not_rotated(name, tiny_method, pictures):
    method = tiny_method(name, {"upright": "auto"})
    method.decide_upright([pictures])
    assert method.config.upright == "never"
    assert torch.equal(method.frame(pictures).image, pictures)
