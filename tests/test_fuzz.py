"""Mutated images and model folders: only InputError, or what the undamaged file gives; no traceback, no hang.

`pytest tests/test_fuzz.py --fuzz 20000` runs so many mutated images and a quarter as many model folders; the
suite runs a few. Every case is named by its number alone, which seeds it: `--fuzz-from N` starts there.
"""

import io
import json
import random
import shutil
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, features

from mendiff.checkpoints.files import sealed, sha256_of
from mendiff.checkpoints.store import load, save
from mendiff.data.masks import read_mask
from mendiff.data.polygons import annotated_size, annotates, read_annotation
from mendiff.data.reading import image_size, read_image
from mendiff.errors import InputError
from mendiff.methods.base import METHODS
from mendiff.model import calibrated

SECONDS = 60
"""A case that takes longer hangs."""


@contextmanager
def no_hang():
    """Fail where the block does not end."""

    def stop(*_):
        raise TimeoutError(f"still running after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(what, do):
    """(result, None), or (None, the one sentence of an InputError); anything else fails."""
    try:
        with no_hang():
            return do(), None
    except InputError as error:
        sentence = str(error)
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    assert "\n" not in sentence, what
    return None, sentence


def mutated(data, rng):
    """Bytes with one to four damages: bits, bytes, cuts, holes, repeats, insertions, and lengths that lie."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        at, length = rng.randrange(len(data)), rng.choice((1, 2, 4, 16, 64))
        # Headers are short and decide most: half of the damage goes there.
        at = at % 128 if rng.random() < 0.5 and len(data) > 128 else at
        kind = rng.choice(("bit", "byte", "cut", "hole", "repeat", "insert", "drop", "number"))
        if kind == "bit":
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            data[at] = rng.randrange(256)
        elif kind == "cut":
            del data[at:]
        elif kind == "hole":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
        elif kind == "insert":
            data[at:at] = rng.randbytes(length)
        elif kind == "drop":
            del data[at : at + length]
        else:
            number = rng.choice((0, 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1))
            data[at : at + 4] = number.to_bytes(4, rng.choice(("little", "big")))
    return bytes(data)


def undamaged_images():
    """(name, bytes) of small pictures in every kind of file that cameras and programs write."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    grey, deep = colour[..., 0], (rng.integers(0, 65536, (24, 32))).astype(np.uint16)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    kinds = [
        ("png", colour, {}),
        ("png", grey, {"interlace": True}),
        ("png", deep, {}),
        ("png", grey > 127, {"bits": 1}),
        ("jpeg", colour, {"exif": rotated}),
        ("jpeg", grey, {"progressive": True}),
        ("bmp", colour, {}),
        ("tiff", colour, {"compression": "tiff_lzw", "exif": rotated}),
        ("tiff", deep, {}),
        ("tiff", colour, {"compression": "tiff_adobe_deflate"}),
        ("tiff", grey > 127, {"compression": "group4"}),
        ("gif", grey, {}),
        ("webp", colour, {"lossless": True}),
        ("webp", colour, {}),
        ("ppm", colour, {}),
        ("tga", colour, {}),
        ("pcx", colour, {}),
        *([("avif", colour, {})] if features.check("avif") else []),
    ]
    for number, (kind, values, options) in enumerate(kinds):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, kind, **options)
        yield f"{number}.{kind}", buffer.getvalue()
    # Types that Pillow does not read.
    for number, values in enumerate((colour / np.float32(255), colour / 255, colour.astype(np.uint32))):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, photometric="rgb")
        yield f"wide{number}.tiff", buffer.getvalue()


@pytest.mark.filterwarnings("ignore")  # Pillow warns of broken tags before it fails
def test_mutated_images_are_read_or_refused_in_one_sentence(tmp_path, monkeypatch, fuzz):
    monkeypatch.setenv("MENDIFF_MAX_MEGAPIXELS", "5")
    sources = list(undamaged_images())
    refused = 0
    for case in fuzz.cases(400):
        rng = random.Random(f"image {case}")
        name, data = rng.choice(sources)
        kept = rng.choice((name, name, f"x.{rng.choice(('png', 'jpg', 'tif', 'webp'))}"))
        path = tmp_path / f"{case}-{kept}"
        path.write_bytes(mutated(data, rng))
        for read in (read_image, read_mask, image_size):
            what = f"case {case}, {read.__name__} of {kept}"
            found, sentence = outcome(what, lambda read=read, path=path: read(path))
            if sentence is not None:
                refused += 1
                assert str(path) in sentence, what
            elif read is read_image:
                assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3), what
                assert found.shape[:2] == image_size(path), what
        path.unlink()
    assert refused  # otherwise nothing was damaged


def undamaged_annotations():
    """labelme and COCO files of 7.png, 32x24, as values."""
    shapes = [
        {"shape_type": "polygon", "points": [[1, 2], [20, 2.5], [20, 20]]},
        {"shape_type": "rectangle", "points": [[1, 2], [20, 20]]},
        {"shape_type": "circle", "points": [[9, 9], [12, 9]]},
        {"shape_type": "line", "points": [[1, 2], [20, 20]]},
        {"shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "iVBORw0KGgo="},
    ]
    yield {"imageHeight": 24, "imageWidth": 32, "shapes": shapes[:-1]}
    yield {"imageHeight": 24, "imageWidth": 32, "shapes": shapes[-1:]}
    regions = [
        [[1, 2, 20, 2, 20, 20]],
        {"size": [24, 32], "counts": [700, 60, 8]},
        {"size": [24, 32], "counts": "lY0d10g"},
    ]
    annotations = [{"id": n, "image_id": 3, "segmentation": region} for n, region in enumerate(regions)]
    annotations.append({"id": 9, "image_id": 3, "bbox": [1, 2, 3, 4]})
    image = {"id": 3, "file_name": "a/7.png", "height": 24, "width": 32}
    for some in (annotations[:2], annotations[1:3], annotations[3:]):
        yield {"images": [image], "annotations": some}


def test_damaged_annotations_are_read_or_refused_in_one_sentence(tmp_path, monkeypatch, fuzz):
    monkeypatch.setenv("MENDIFF_MAX_MEGAPIXELS", "5")
    image = tmp_path / "7.png"
    Image.new("L", (32, 24)).save(image)
    sources = list(undamaged_annotations())
    refused = 0
    for case in fuzz.cases(400):
        rng = random.Random(f"annotation {case}")
        path, text = tmp_path / "7.json", json.dumps(rng.choice(sources))
        for _ in range(rng.choice((1, 1, 2, 3))):
            text = json.dumps(with_an_odd_value(text, rng))
        path.write_bytes(mutated(text.encode(), rng) if rng.random() < 0.3 else text.encode())
        for read in (read_annotation, annotated_size, annotates):
            what = f"case {case}, {read.__name__}"
            found, sentence = outcome(what, lambda read=read, path=path: read(path, image))
            if sentence is not None:
                refused += 1
                assert str(path) in sentence, what
            elif read is read_annotation:
                assert (found.dtype, found.ndim) == (np.bool_, 2), what
        path.unlink()
    assert refused


@pytest.fixture(scope="module")
def models(tiny_method, tmp_path_factory):
    """Two small model folders of every method, and the scores of one image by each."""
    root, found = tmp_path_factory.mktemp("models"), {}
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(6)]
    for name in sorted(METHODS):
        for number in range(2):
            model = calibrated(name, tiny_method(name), {"seed": number, "images": 6}, images[number:])
            folder = root / f"{name}-{number}"
            save(folder, name, model.method, model.calibration, model.info)
            found[folder] = load(folder).predict(images[0]).score
    return images[0], found


ODD = (
    None,
    True,
    0,
    -1,
    1,
    3,
    10**9,
    10**18,
    10**400,
    0.5,
    1e308,
    -1e-300,
    "",
    "12",
    "nan",
    [],
    [1, "a"],
    {},
    {"a": 1},
)


def places(value, path=()):
    """Where a JSON value has entries, all levels."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield (*path, key)
        yield from places(one, (*path, key))


def with_an_odd_value(text, rng):
    """JSON with one entry replaced, taken out or called otherwise."""
    data = json.loads(text)
    *parents, last = rng.choice(list(places(data)))
    inside = data
    for key in parents:
        inside = inside[key]
    kind = rng.choice(("replace", "replace", "remove", "rename"))
    if kind == "replace":
        inside[last] = rng.choice(ODD)
    elif kind == "remove" or isinstance(inside, list):
        del inside[last]
    else:
        inside[f"{last}_"] = inside.pop(last)
    return data


def seal(folder):
    """Write the hashes of a changed folder anew, as somebody who means to can."""
    config = folder / "config.json"
    data = json.loads(config.read_text())
    data.pop("sha256", None)
    if isinstance(data.get("files"), dict):
        data["files"] = {
            name: sha256_of(folder / name) if (folder / name).is_file() else "" for name in data["files"]
        }
    config.write_text(json.dumps(sealed(data, "config")))


def damage(folder, other, rng):
    """Damage a model folder; returns whether somebody sealed it anew, so that other settings may be whole."""
    name = rng.choice(("config.json", "config.json", "calibration.json", "model.safetensors"))
    file, kind = folder / name, rng.choice(("bytes", "bytes", "swap", "missing", "value", "value"))
    if kind == "bytes":
        file.write_bytes(mutated(file.read_bytes(), rng))
    elif kind == "swap":
        shutil.copy(other / name, file)
    elif kind == "missing":
        file.unlink()
    elif name.endswith(".json"):
        file.write_text(json.dumps(with_an_odd_value(file.read_text(), rng)))
        if rng.random() < 0.5:
            try:
                seal(folder)
            except (InputError, ValueError):
                return False  # a value that JSON can't hold stays unsealed
            return True
    return False


def test_damaged_model_folders_are_refused_or_score_as_before(tmp_path, fuzz, models):
    image, scores = models
    folders = list(scores)
    refused = 0
    for case in fuzz.cases(120, share=0.25):
        rng = random.Random(f"model {case}")
        original = rng.choice(folders)
        other = rng.choice([one for one in folders if one != original])
        folder = shutil.copytree(original, tmp_path / str(case))
        meant = damage(folder, other, rng)
        what = f"case {case}, {original.name}"
        score, sentence = outcome(what, lambda folder=folder: load(folder).predict(image).score)
        if sentence is not None:
            refused += 1
        elif not torch.equal(score, scores[original]):
            assert meant, what
            assert bool(score.isfinite().all()), what
        shutil.rmtree(folder)
    assert refused
