import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from mendiff.calibration import Calibration
from mendiff.checkpoints import store
from mendiff.data.arrays import as_list
from mendiff.data.images import resize
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError, NotFiniteError
from mendiff.methods.calibrate import calibrate
from mendiff.model import Model
from mendiff.types import Detection


@pytest.fixture(scope="module")
def model(tiny_method):
    return Model("glad", tiny_method(), Calibration((1.0, 2.0)), {})


@pytest.fixture(scope="module")
def photos():
    """Three photographs of different sizes, (H,W,3) uint8."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for height, width in ((40, 30), (32, 32), (20, 64))
    ]


@pytest.fixture(scope="module")
def found(model, photos):
    return model.predict(photos)


def same(one, other, **tolerance):
    for field in dataclasses.fields(Detection):
        torch.testing.assert_close(
            getattr(one, field.name), getattr(other, field.name), **(tolerance or {"rtol": 0, "atol": 0})
        )


def row(found, index):
    return Detection(
        **{f.name: getattr(found, f.name)[index : index + 1] for f in dataclasses.fields(Detection)}
    )


def test_every_picture_gets_one_row_at_the_models_size(model, found):
    assert model.image_size == 32
    assert found.score.shape == (3,)
    assert found.anomaly_map.shape == (3, 1, 32, 32)
    assert found.reconstruction.shape == (3, 3, 32, 32)
    assert not found.score.requires_grad


def test_a_picture_of_any_size_is_traced_to_what_is_found_in_it(model, photos, found):
    for index, photo in enumerate(photos):
        traced = model.trace(photo)
        same(traced.found, model.predict(photo))
        same(traced.found, row(found, index), rtol=1e-5, atol=1e-5)
        assert traced.panels
        assert all(panel.pixels.dtype == torch.float32 for panel in traced.panels)


def test_pictures_on_the_way_to_a_finding_lie_as_the_given_image_does(tiny_method):
    side, at = 64, (torch.arange(64) * 2 + 1) / 64 - 1
    rows, columns = torch.meshgrid(at, at, indexing="ij")
    along, across = (columns + rows) / 2**0.5, (rows - columns) / 2**0.5  # a peg with a head, at 45 degrees
    peg = (along.abs() < 0.6) & (across.abs() < 0.08) | ((along + 0.5).abs() < 0.12) & (across.abs() < 0.2)
    image = torch.where(peg, 0.2, 0.9).float().expand(3, side, side)
    changes = {"image_size": side, "upright": "always", "start_timesteps": [50]}
    method = tiny_method("glad", changes)
    traced = Model("glad", method, Calibration((0.1, 0.2)), {}).trace(image)
    frame = method.frame(image[None])
    upright = method.trace(frame.image, content_seeds(image[None]))
    assert len(traced.panels) == len(upright.panels) > 1
    for one, turned in zip(traced.panels, upright.panels, strict=True):
        assert float((one.pixels - turned.pixels).abs().mean()) > 0.02
        torch.testing.assert_close(one.pixels, frame.undo_picture(turned.pixels[None])[0])


def test_a_trace_that_ends_in_no_numbers_is_refused(model, photos):
    broken = dataclasses.replace(model, method=copy.deepcopy(model.method))
    with torch.no_grad():
        for one in broken.method.denoiser.parameters():
            one.fill_(float("nan"))
    with pytest.raises(NotFiniteError):
        broken.trace(photos[0])


def test_files_arrays_pictures_and_tensors_are_judged_alike(model, photos, found, tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, photo in zip(paths, photos, strict=True):
        Image.fromarray(photo).save(path)
    same(model.predict(paths), found)
    same(model.predict([str(path) for path in paths]), found)
    same(model.predict([Image.fromarray(photo) for photo in photos]), found)
    same(model.predict([torch.from_numpy(photo).permute(2, 0, 1).float() / 255 for photo in photos]), found)
    same(model.predict((paths[0], photos[1], Image.fromarray(photos[2]))), found)


def test_one_picture_needs_no_list(model, photos, found, tmp_path):
    Image.fromarray(photos[0]).save(tmp_path / "one.png")
    for one in (photos[0], Image.fromarray(photos[0]), tmp_path / "one.png", str(tmp_path / "one.png")):
        same(model.predict(one), row(found, 0), rtol=1e-5, atol=1e-5)


def test_a_batch_is_a_list_of_its_images(model, pictures):
    same(model.predict(pictures), model.predict(list(pictures)))
    levels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    same(model.predict(levels), model.predict(list(levels)))


def test_a_result_depends_neither_on_the_batch_size_nor_on_neighbours(model, photos, found):
    for batch_size in (1, 2):
        same(model.predict(photos, batch_size), found, rtol=1e-5, atol=1e-5)
    backwards = model.predict(photos[::-1])
    for index in range(3):
        same(row(backwards, 2 - index), row(found, index), rtol=1e-5, atol=1e-5)


def test_stream_gives_the_same_batch_by_batch(model, photos, found):
    parts = list(model.stream(photos, batch_size=2))
    assert [len(part.score) for part in parts] == [2, 1]
    for part, first in zip(parts, (0, 2), strict=True):
        same(row(part, 0), row(found, first), rtol=1e-5, atol=1e-5)


def test_noise_comes_from_the_pictures_content(model, photos):
    batch = torch.stack([resize(photo, 32) for photo in photos])
    same(model.predict(photos), model.method.predict(batch, content_seeds(batch)))


def test_prediction_leaves_the_global_rng_alone(model, photos, global_rng_untouched):
    with global_rng_untouched():
        model.predict(photos)


def test_grey_pictures_and_palettes_count_as_rgb(model, photos):
    grey = Image.fromarray(photos[0]).convert("L")
    same(model.predict(grey), model.predict(grey.convert("RGB")))


def test_a_picture_in_memory_is_read_as_its_file_would_be(model, photos, tmp_path):
    alpha = np.dstack([photos[0], np.full((40, 30), 128, np.uint8)])
    deep = (np.random.default_rng(1).random((24, 24)) * 65535).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, (array, exif) in enumerate(((alpha, None), (deep, None), (photos[0], turned))):
        path = tmp_path / f"{number}.png"
        Image.fromarray(array).save(path, exif=exif)
        with Image.open(path) as picture:
            same(model.predict(picture), model.predict(path))
    assert not torch.equal(model.predict(path).score, model.predict(photos[0]).score)


def as_file(array, tmp_path):
    Image.fromarray(array).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_grey_arrays_are_judged_as_their_files(model, photos, tmp_path):
    grey = np.ascontiguousarray(photos[0][..., 0])
    expected = model.predict(as_file(grey, tmp_path))
    same(model.predict(grey), expected)
    same(model.predict(grey[..., None]), expected)
    same(model.predict(np.repeat(grey[..., None], 3, 2)), expected)


def test_arrays_with_alpha_are_judged_as_their_files(model, photos, tmp_path):
    alpha = np.arange(40 * 30, dtype=np.int64).reshape(40, 30, 1).astype(np.uint8)
    for array in (np.dstack([photos[0], alpha]), np.dstack([photos[0][..., :1], alpha])):
        same(model.predict(array), model.predict(as_file(array, tmp_path)))


def test_arrays_of_16_bits_are_judged_as_their_files(model, photos, tmp_path):
    deep = np.random.default_rng(1).integers(0, 65536, (24, 24), dtype=np.uint16)
    expected = model.predict(as_file(deep, tmp_path))
    for array in (deep, deep[..., None], np.repeat(deep[..., None], 3, 2), deep.astype(">u2")):
        same(model.predict(array), expected)
    same(model.predict(photos[0].astype(np.uint16) * 257), model.predict(photos[0]))


def test_float_arrays_are_judged_as_the_pictures_they_are_of(model, photos):
    for kind in (np.float32, np.float64):
        same(model.predict((photos[0] / 255).astype(kind)), model.predict(photos[0]))
        same(model.predict((photos[0][..., 0] / 255).astype(kind)), model.predict(photos[0][..., 0]))


@pytest.mark.parametrize(
    "view",
    [
        lambda one: one[..., ::-1],
        lambda one: one[::-1, ::-1],
        lambda one: one[::2, 1::3],
        lambda one: one.transpose(1, 0, 2),
        lambda one: np.asfortranarray(one),
        lambda one: np.dstack([one, one])[..., 1:4],
        lambda one: one[..., ::-1].astype(np.uint16)[::-1] * 257,
        lambda one: np.broadcast_to(one[:1], one.shape),
    ],
)
def test_arrays_of_any_strides_are_judged_by_their_content(model, photos, view):
    array = view(photos[0])
    plain = np.array([[list(pixel) for pixel in row] for row in array.tolist()], array.dtype)
    same(model.predict(array), model.predict(plain))
    read_only = plain.copy()
    read_only.flags.writeable = False
    same(model.predict(read_only), model.predict(plain))


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (np.zeros((8, 8), bool), "got bool; multiply it by 255"),
        (np.zeros((8, 8, 3), np.int64), r"got int64; use .astype\(np.uint8\)"),
        (np.zeros((8, 8, 3), np.float16), r"got float16; use .astype\(np.float32\)"),
        (np.zeros((8, 8, 3), complex), "got complex128; give a path"),
        (np.array(["a", "b"]), "got <U1; give a path"),
        (np.full((8, 8, 3), 200.0), r"in \[0,1\], got 200 to 200; divide it by 255"),
        (np.full((8, 8, 3), -1.0), r"in \[0,1\], got -1 to -1; scale them"),
        (np.full((8, 8, 3), np.nan), r"in \[0,1\], got nan to nan"),
        (np.zeros((3, 8, 8), np.uint8), r"got \(3, 8, 8\); move the channels to the end with np.moveaxis"),
        (np.zeros((8, 8, 5), np.uint8), r"got \(8, 8, 5\); give several images as a list"),
        (np.zeros(8, np.uint8), r"got \(8,\); give several images as a list"),
        (np.zeros((0, 8, 3), np.uint8), r"got \(0, 8, 3\); it has no pixels"),
        (object(), "expected a path, an array, a PIL image or a tensor, got a object"),
        (7, "expected a path, an array, a PIL image or a tensor, got a int"),
    ],
)
def test_arrays_of_another_kind_are_refused_with_what_to_do(model, image, hint):
    with pytest.raises(InputError, match=hint):
        model.predict(image)


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "got uint8; divide whole numbers by 255"),
        (torch.zeros(3, 8, 8, dtype=torch.float16), "got float16; its rounding changes scores: give"),
        (torch.zeros(3, 8, 8, dtype=torch.bfloat16), r"got bfloat16; .* convert it with .float\(\)"),
        (torch.zeros(1, 8, 8), r"got torch.float32 \(1, 8, 8\); repeat the channel of a grey image"),
        (torch.zeros(8, 8), r"got torch.float32 \(8, 8\); repeat the channel of a grey image"),
        (torch.zeros(8, 8, 3), r"got torch.float32 \(8, 8, 3\); move the channels to the front"),
        (torch.zeros(3, 0, 8), r"got torch.float32 \(3, 0, 8\)"),
        (torch.full((3, 8, 8), 255.0), r"values in \[0,1\], got 255 to 255; divide it by 255"),
        (torch.full((3, 8, 8), -0.5), r"values in \[0,1\], got -0.5 to -0.5; scale them"),
        (torch.full((3, 8, 8), float("nan")), r"values in \[0,1\], got nan to nan"),
    ],
)
def test_tensors_of_another_kind_are_refused_with_what_to_do(model, image, hint):
    with pytest.raises(InputError, match=hint):
        model.predict(image)


def test_tensors_of_double_precision_are_judged_as_single_ones(model, pictures):
    same(model.predict(pictures.double()), model.predict(pictures))
    same(model.predict_batch(pictures.double()), model.predict_batch(pictures))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.uint8])
def test_prepared_batches_of_another_kind_are_refused(model, pictures, kind):
    with pytest.raises(InputError, match="expected a float32 tensor"):
        model.predict_batch(pictures.to(kind))


def test_rounding_beyond_zero_and_one_is_cut_off(model, pictures):
    stretched = pictures[0] * (1 + 1e-5)
    same(model.predict(stretched), model.predict(stretched.clamp(0, 1)))


@pytest.mark.parametrize("nothing", [[], (), torch.zeros(0, 3, 8, 8)])
def test_no_pictures_are_refused(model, nothing):
    with pytest.raises(InputError, match="at least one image, got none"):
        model.predict(nothing)


def test_a_missing_file_is_refused_by_name(model, tmp_path):
    with pytest.raises(InputError, match=r"absent.png: no such file"):
        model.predict([tmp_path / "absent.png"])


def test_as_list_keeps_single_pictures_whole():
    assert as_list("a.png") == ["a.png"]
    assert as_list(("a.png", "b.png")) == ["a.png", "b.png"]
    assert [tuple(one.shape) for one in as_list(torch.zeros(2, 3, 4, 4))] == [(3, 4, 4)] * 2
    assert [one.shape for one in as_list(np.zeros((4, 4, 3)))] == [(4, 4, 3)]


def test_a_folder_stands_for_its_images(model, photos, tmp_path):
    paths = []
    for number, photo in enumerate(photos[:2]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(photo).save(paths[-1])
    (tmp_path / "notes.txt").write_text("no image")
    found = model.predict(str(tmp_path))
    assert found.names == tuple(map(str, paths))
    assert torch.equal(found.score, model.predict(paths).score)
    assert f"{paths[1]}: " in found._repr_html_()
    assert model.predict([photos[0], paths[1]]).names == ("", str(paths[1]))
    assert torch.equal(torch.cat([one.score for one in model.stream(tmp_path)]), found.score)


def test_a_folder_without_images_is_refused(model, tmp_path):
    with pytest.raises(InputError, match="no images found"):
        model.predict(tmp_path)


def test_an_unknown_device_is_refused(model):
    with pytest.raises(InputError, match="expected a device of this machine, got 'abacus'"):
        model.to("abacus")
    assert model.to("cpu") is model


def test_a_sparing_model_finds_the_same(tiny_method, pictures, tmp_path):
    store.save(tmp_path / "model", "glad", tiny_method(), Calibration((1.0, 2.0), (3.0, 4.0)), {})
    plain, offloaded, halved = (
        store.load(tmp_path / "model", **options) for options in ({}, {"offload": True}, {"half": True})
    )
    expected = plain.predict(pictures)
    same(offloaded.predict(pictures), expected)
    assert offloaded.device == "cpu"
    close = halved.predict(pictures)
    assert not torch.equal(close.score, expected.score)
    torch.testing.assert_close(close.reconstruction, expected.reconstruction, rtol=0, atol=0.06)
    with pytest.raises(InputError, match="expected a device of this machine, got 'abacus'"):
        store.load(tmp_path / "model", "abacus", offload=True)


def test_an_offloaded_model_sends_images_where_its_networks_work(tiny_method, pictures, monkeypatch):
    """The meta device stands for a card; what is there has no values, so it is only looked at."""
    model = Model("glad", tiny_method(), Calibration((1.0, 2.0)), {}).sparing("meta", offload=True)
    assert {one.device.type for one in model.method.parameters()} == {"cpu"}
    assert model.method.stop_thresholds.device.type == "meta"
    seen = []
    monkeypatch.setattr(model.method, "predict", lambda image, seeds: seen.append(image.device.type) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.predict(pictures)
    assert seen == ["meta"]
    t = torch.zeros(1, dtype=torch.int64, device="meta")
    x_t = torch.empty(1, model.method.codec.channels, 8, 8, device="meta")
    assert model.method.denoiser(x_t, t).x0.device.type == "meta"


def test_calibrated_learns_anew_from_the_given_pictures_and_leaves_the_model_alone(model, pictures):
    before = {key: value.clone() for key, value in model.method.state_dict().items()}
    threshold = model.threshold
    anew = model.calibrated(pictures)
    assert anew.calibration.scores == pytest.approx(anew.predict(pictures).score.tolist(), abs=1e-5)
    assert anew.threshold != threshold
    assert model.threshold == threshold
    assert all(torch.equal(value, before[key]) for key, value in model.method.state_dict().items())
    learned = {key for key, value in anew.method.state_dict().items() if not torch.equal(value, before[key])}
    assert learned
    assert all(key.startswith("readout.") for key in learned)


def test_calibrated_on_too_few_pictures_is_refused(model, pictures):
    with pytest.raises(InputError, match="good images"):
        model.calibrated(pictures[:1])


# Numbers that are none.


@pytest.fixture
def lost(model, monkeypatch):
    """A model whose method gives a number that is none: call it with the field, and the grey level of images
    that it happens to.
    """

    def make(name, level, value=float("nan")):
        predict = model.method.predict

        def poisoned(image, seeds):
            found = predict(image, seeds)
            column = getattr(found, name).clone()
            column[(image.mean((1, 2, 3)) - level).abs() < 0.02] = value
            return dataclasses.replace(found, **{name: column})

        monkeypatch.setattr(model.method, "predict", poisoned)
        return model

    return make


@pytest.mark.parametrize("name", ["score", "anomaly_map", "reconstruction"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_images_whose_scores_are_no_numbers_are_named(lost, name, batch_size):
    grey = [torch.full((3, 32, 32), level) for level in (0.1, 0.9, 0.2, 0.3, 0.9)]
    model = lost(name, 0.9, float("inf"))
    with pytest.raises(NotFiniteError, match="expected finite scores and maps, got NaN or infinity") as error:
        model.predict(grey, batch_size)
    assert error.value.rows == ([1] if batch_size < 8 else [1, 4])
    assert str(error.value).startswith("image 1")
    with pytest.raises(NotFiniteError):
        list(model.stream(grey, batch_size))
    assert bool(model.predict(grey[2:4], batch_size).score.isfinite().all())


def test_a_damaged_weight_is_no_verdict(model, pictures):
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.method.denoiser.network.conv_in.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="image 0, image 1, image 2 and 1 more: expected finite scores"):
        damaged.predict(list(pictures))


def test_thresholds_from_scores_that_are_no_numbers_are_refused(lost, pictures):
    model = lost("score", float(pictures[2].mean()))
    with pytest.raises(InputError, match="expected finite scores"):
        calibrate(model.method, lambda: iter([(pictures, torch.arange(4))]))
