import errno
import json
import shutil
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mendiff import __version__
from mendiff.calibration import Calibration
from mendiff.checkpoints import store, weights
from mendiff.checkpoints.files import sealed, sha256_of
from mendiff.checkpoints.migrate import migrated
from mendiff.checkpoints.model_folder import categories_of
from mendiff.diffusion.random import PerImageRandom
from mendiff.errors import InputError

CALIBRATION = Calibration((1.0, 2.0, 4.0), (5.0, 6.0, 7.0), 0.05)
INFO = {"data": "bolts", "seconds": 12.5, "nested": [1, None]}


@pytest.fixture(scope="module")
def method(tiny_method):
    return tiny_method()


@pytest.fixture(scope="module")
def written(method, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "bolts"
    store.save(folder, "glad", method, CALIBRATION, INFO)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A model folder of one's own, to be damaged."""
    return shutil.copytree(written, tmp_path / "bolts")


@pytest.fixture
def old(folder):
    """The same as version 1 wrote it, without any hash: what a file holds is all there is to check."""
    edit(folder / "config.json", version=1, files=..., sha256=...)
    edit(folder / "calibration.json", weights=...)
    return folder


def edit(path, **changes):
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def reseal(folder):
    """Write the hashes of a changed folder anew, as only somebody who means to can."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content.pop("sha256")
    content["files"] = {name: sha256_of(folder / name) for name in content["files"]}
    path.write_text(json.dumps(sealed(content, "config")))


# Writing.


def test_a_model_is_three_files(written):
    assert sorted(file.name for file in written.iterdir()) == sorted(
        ["calibration.json", "config.json", "model.safetensors"]
    )
    assert [other.name for other in written.parent.iterdir()] == ["bolts"]
    config = json.loads((written / "config.json").read_text())
    assert (config["format"], config["version"], config["mendiff"]) == ("mendiff", 3, __version__)
    assert config["info"] == INFO
    names = ("model.safetensors", "calibration.json")
    assert config["files"] == {name: sha256_of(written / name) for name in names}
    calibration = json.loads((written / "calibration.json").read_text())
    assert calibration["weights"] == config["files"]["model.safetensors"]


def test_what_was_saved_is_what_is_loaded(written, method):
    model = store.load(written)
    assert (model.name, model.info, model.calibration) == ("glad", INFO, CALIBRATION)
    assert model.threshold == CALIBRATION.threshold
    assert model.method.config == method.config
    assert not model.method.training
    loaded, saved = model.method.state_dict(), method.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


def test_parent_folders_are_made(method, tmp_path):
    store.save(tmp_path / "a" / "b" / "model", "glad", method, CALIBRATION, {})
    assert store.load(str(tmp_path / "a" / "b" / "model")).info == {}


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_existing_target_is_refused_and_stays_as_it_was(method, tmp_path, kind):
    target = tmp_path / "model"
    if kind == "file":
        target.write_text("precious")
    else:
        target.mkdir()
        (target / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match="expected a new folder for the model, but it exists"):
        store.save(target, "glad", method, CALIBRATION, {})
    assert (target if kind == "file" else target / "notes.txt").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [target]


ROOM = "expected free disk space, but the disk is full .*; free some space or choose another folder"


@pytest.mark.parametrize(
    ("failure", "kind", "sentence"),
    [
        (OSError(errno.EIO, "I/O error"), OSError, "I/O error"),
        (OSError(errno.ENOSPC, "No space left on device"), InputError, ROOM),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), InputError, ROOM),
        # In these words safetensors tells of it.
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            InputError,
            ROOM,
        ),
        (SafetensorError("Error while serializing: I/O error: (os error 5)"), SafetensorError, "os error 5"),
    ],
)
def test_nothing_half_written_is_left_where_writing_fails(
    method, tmp_path, monkeypatch, failure, kind, sentence
):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise failure

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(kind, match=sentence):
        store.save(tmp_path / "model", "glad", method, CALIBRATION, {})
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_is_left_where_the_info_is_no_json(method, tmp_path):
    with pytest.raises(TypeError):
        store.save(tmp_path / "model", "glad", method, CALIBRATION, {"when": object()})
    assert list(tmp_path.iterdir()) == []


def test_one_prompt_used_twice_can_be_saved(tiny_method, tmp_path):
    network = {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "norm_num_groups": 4,
        "cross_attention_dim": 6,
        "attention_head_dim": 4,
    }
    method = tiny_method("glad", {"denoiser.kind": "conditional_unet", "denoiser.network": network})
    prompt = torch.rand(1, 77, 6)
    method.denoiser.set_prompts(prompt, prompt)
    store.save(tmp_path / "model", "glad", method, CALIBRATION, {})
    assert torch.equal(store.load(tmp_path / "model").method.denoiser.no_prompt, prompt)


# Folders that are no models.


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        store.load(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="there is no such folder"):
        store.load(tmp_path / "file")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "calibration.json"])
def test_an_incomplete_folder_is_refused_by_what_is_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"but {name} is missing"):
        store.load(folder)


@pytest.mark.parametrize("value", [..., "diffusers", None])
def test_a_config_of_somebody_else_is_refused(folder, value):
    edit(folder / "config.json", format=value)
    with pytest.raises(InputError, match=r"config.json was not written by mendiff"):
        store.load(folder)


@pytest.mark.parametrize("version", [4, 99, 0, -1, 1.0, True, "1", None, ...])
def test_a_newer_version_is_refused_with_what_to_do(folder, version):
    edit(folder / "config.json", version=version, mendiff="9.0")
    with pytest.raises(InputError, match=r"version 3 or older, got version .* mendiff 9.0; update mendiff"):
        store.load(folder)


@pytest.mark.parametrize("key", ["method", "config", "info"])
def test_a_missing_field_is_named(old, key):
    edit(old / "config.json", **{key: ...})
    with pytest.raises(InputError, match=f"lacks the field '{key}'"):
        store.load(old)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gan"}, "expected one of .*glad.*, got 'gan'"),
        ({"method": ["glad"]}, "expected one of .*glad"),
        ({"config": 5}, "config: expected a group of fields, got 5"),
        ({"config": {}}, "config lacks the field 'image_size'"),
        ({"files": {}}, "expected the fields format, .*, got 'files'"),
        ({"info": None}, "info: expected a group of fields, got None"),
        ({"info": [1]}, r"info: expected a group of fields, got \[1\]"),
        ({"info": {"seconds": "many"}}, "info.seconds: expected float, got 'many'"),
        ({"info": {"seconds": 10**400}}, "damaged .*a whole number of 401 digits, which is too large"),
        ({"info": {"categories": "bolts"}}, r"info.categories: expected a list such as"),
        (
            {"info": {"fitted": {"held_back": [1]}}},
            "info.fitted: expected the field 'data'",
        ),
    ],
)
def test_a_config_that_fits_no_method_is_refused(old, changes, message):
    edit(old / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        store.load(old)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("step", 1, "config: expected some of .*, got 'step'"),
        ("sampler_steps", "many", "config.sampler_steps: expected int, got 'many'"),
        ("sampler_steps", 10**400, "damaged .*a whole number of 401 digits, which is too large"),
        ("image_size", ..., "config lacks the field 'image_size'"),
        ("image_size", None, "config.image_size: expected int, got None"),
        ("image_size", 10**9, "image_size: expected at most 16384, got 1000000000"),
        ("image_size", -32, "image_size: expected at least 0, got -32"),
        ("image_size", 32.0, "image_size: expected int, got 32.0"),
        ("sampler_steps", 10**9, "sampler_steps: expected at most 1000, got 1000000000"),
        ("threshold", float("nan"), "damaged .*got NaN as a number"),
        ("threshold", float("inf"), "damaged .*got Infinity as a number"),
        ("codec.factor", 10**9, "codec.factor: expected at most 256"),
        ("codec.factor", 3, "model.safetensors: .* has another shape of"),
        ("readout.position_grid", 10**9, "position_grid: expected at most 1024"),
        ("denoiser.network.layers_per_block", 10**9, "layers_per_block: expected numbers up to 65536"),
        ("denoiser.network.layers_per_block", -3, "model.safetensors: .*(lacks|unknown)"),
        ("denoiser.network.block_out_channels", [-16, 32], "expected valid settings"),
        ("denoiser.network.block_out_channels", [16384, 32], "has another shape of"),
        ("denoiser.network.block_out_channels", [[16], 32], "expected valid settings"),
        ("denoiser.network.norm_num_groups", 0, "expected valid settings"),
        ("features.name", "bundled", "model.safetensors: .* lacks 'features"),
        ("features.name", "resnet18", "model.safetensors: .* lacks 'features"),
        ("features", {"name": "bundled", "network": {"widths": 3}}, "expected valid settings"),
    ],
)
def test_a_damaged_field_is_one_sentence(old, field, value, message):
    content = json.loads((old / "config.json").read_text())
    *parents, last = field.split(".")
    place = content["config"]
    for parent in parents:
        place = place[parent]
    place[last] = value
    if value is ...:
        del place[last]
    (old / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        store.load(old)


# Damage.


@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null", b"[" * 100_000])
def test_damaged_json_is_refused_by_the_files_name(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: expected"):
        store.load(folder)


def test_a_method_that_is_not_known_is_refused_by_the_files_name(old):
    edit(old / "config.json", method="zebra")
    with pytest.raises(InputError, match=r"config\.json: method: expected one of .*, got 'zebra'"):
        store.load(old)


def test_weights_get_the_permissions_of_other_new_files(tmp_path):
    (tmp_path / "plain").touch()
    store.write_weights({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    assert len({stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": ["high", "low"]}, r"calibration\.json: expected numbers"),
        ({"scores": "12"}, r"calibration\.json: expected numbers"),
        ({"scores": [1.0, "2"]}, r"calibration\.json: expected numbers"),
        ({"scores": [1.0, True]}, r"calibration\.json: expected numbers"),
        ({"scores": {"1": 2}}, r"calibration\.json: expected numbers"),
        ({"scores": ...}, r"calibration\.json: expected numbers"),
        ({"scores": [1.0]}, "at least 2 good images"),
        ({"scores": [1.0, 10**400]}, "damaged .*a whole number of 401 digits"),
        ({"scores": [-1.7e308, 0.0, 1.7e308]}, "finite threshold"),
        ({"scores": [1.0, float("nan")]}, "damaged .*NaN as a number"),
        ({"pixel_scores": []}, "as many pixel_scores as scores, 3, got 0"),
        ({"pixel_scores": ...}, r"calibration\.json: expected numbers"),
        ({"pixel_scores": None}, r"calibration\.json: expected numbers"),
        ({"pixel_scores": [1.0, 2.0]}, "as many pixel_scores as scores, 3, got 2"),
        ({"false_alarm_rate": "often"}, r"calibration\.json: expected numbers"),
        ({"false_alarm_rate": True}, r"calibration\.json: expected numbers"),
        ({"false_alarm_rate": 0}, "a share between 0 and 1"),
    ],
)
def test_a_damaged_calibration_is_refused(old, changes, message):
    edit(old / "calibration.json", **changes)
    with pytest.raises(InputError, match=message):
        store.load(old)


def test_truncated_weights_are_refused_at_every_length(old):
    path = old / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            InputError, match=r"model.safetensors: expected a safetensors file, but it is damaged"
        ):
            store.load(old)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda whole: b"\x80\x02}q\x00." * 100, "but it is a pickle, which can execute code"),
        (lambda whole: b"PK\x03\x04" + whole, "but it is a pickle, which can execute code"),
        (lambda whole: whole[: len(whole) // 2], "damaged or of another format .*; download it again"),
        (lambda whole: whole[:5], "damaged or of another format .*; download it again"),
        (lambda whole: b"", "damaged or of another format .*; download it again"),
    ],
    ids=["pickle", "torch.save", "half", "five bytes", "empty"],
)
def test_weights_that_are_no_safetensors_are_refused(old, damage, sentence):
    path = old / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=sentence):
        store.load(old)


def test_safetensors_that_begin_like_a_pickle_are_read(tmp_path):
    # The length of the header comes first, and 640 bytes read like a pickle of protocol 2.
    path = tmp_path / "x.safetensors"
    metadata = 640 - len('{"__metadata__":{"k":""},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
    save_file({"a": torch.ones(1)}, path, metadata={"k": "x" * metadata})
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert float(store.read_weights(path)["a"]) == 1


def test_only_the_names_that_are_asked_for_are_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a.b": torch.ones(1), "a.c": torch.ones(2), "b.a": torch.ones(3)}, path)
    assert store.read_weights(path, ("a.",)).keys() == {"a.b", "a.c"}
    assert store.read_weights(path).keys() == {"a.b", "a.c", "b.a"}


def tampered(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


KEY = "denoiser.network.conv_in.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(KEY), f"it lacks '{KEY}'"),
        (lambda weights: weights.update(strange=torch.zeros(1)), "it has the unknown 'strange'"),
        (lambda weights: weights.update({KEY: torch.zeros(3)}), f"it has another shape of '{KEY}'"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(old, change, message):
    tampered(old, change)
    with pytest.raises(InputError, match=f"model.safetensors: .* {message}"):
        store.load(old)


def test_half_precision_weights_load_as_full_precision(old):
    tampered(old, lambda weights: weights.update({KEY: torch.full_like(weights[KEY], 0.1).half()}))
    bias = store.load(old).method.denoiser.network.conv_in.bias
    assert bias.dtype == torch.float32
    assert torch.equal(bias, torch.full_like(bias, 0.1).half().float())


def test_weights_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected a safetensors file, but there is no such file"):
        store.read_weights(tmp_path / "absent.safetensors")


def test_a_device_that_is_not_there_is_refused(written):
    for device in ("abacus", "cuda:99"):
        with pytest.raises(InputError, match=f"expected a device of this machine, got '{device}'"):
            store.load(written, device)


# Hashes.


@pytest.fixture
def apart(method, tmp_path):
    """A model folder with statistics of its own for two categories."""
    model = store.Model("glad", method, CALIBRATION, {})
    categories = [(name, model) for name in ("nuts", "screws")]
    store.save(tmp_path / "apart", "glad", method, CALIBRATION, INFO, categories)
    return tmp_path / "apart"


def refused(folder, category=None):
    with pytest.raises(InputError) as error:
        store.load(folder, category=category)
    return str(error.value)


def test_a_changed_bit_of_any_file_is_refused_or_changes_nothing(folder, method):
    """Bits spread over every file; blanks of a JSON file may change, its content may not."""
    loaded = 0
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 60)):
            for bit in (0, 6):
                damaged = bytearray(whole)
                damaged[place] ^= 1 << bit
                path.write_bytes(damaged)
                try:
                    model = store.load(folder)
                except InputError:
                    continue
                loaded += 1
                assert path.name == "config.json"
                assert (model.calibration, model.info, model.method.config) == (
                    CALIBRATION,
                    INFO,
                    method.config,
                )
        path.write_bytes(whole)
    assert loaded < 60
    assert store.load(folder).calibration == CALIBRATION


def test_blanks_of_the_config_do_not_count(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True) + "\n\n")
    assert store.load(folder).info == INFO


@pytest.mark.parametrize(
    "change",
    [
        {"method": "ran"},
        {"info": {**INFO, "seconds": 13}},
        {"info": ...},
        {"more": 1},
        {"files": {}},
        {"sha256": ...},
        {"version": 1},
        {"mendiff": "0.1"},
    ],
)
def test_a_changed_config_is_refused(folder, change):
    edit(folder / "config.json", **change)
    assert "it was changed" in refused(folder)


def test_files_of_another_model_are_refused(folder, method, tmp_path):
    store.save(tmp_path / "other", "glad", method, store.Calibration((7.0, 8.0), (9.0, 9.5)), INFO)
    shutil.copy(tmp_path / "other/calibration.json", folder)
    told = refused(folder)
    assert f"{folder / 'calibration.json'}: expected the file that was written with this model" in told
    assert "copy the model folder again" in told


def test_scores_belong_to_their_weights(folder):
    edit(folder / "calibration.json", weights="0" * 64)
    reseal(folder)
    assert "they belong to another model" in refused(folder)


def test_categories_cannot_be_exchanged_or_added(apart):
    assert categories_of(apart) == ["nuts", "screws"]
    assert store.load(apart, category="nuts").calibration == CALIBRATION
    shutil.copytree(apart / "categories/nuts", apart / "categories/bolts")
    assert categories_of(apart) == ["nuts", "screws"]
    assert "expected a category of" in refused(apart, "bolts")
    (apart / "categories/screws/calibration.json").write_text("{}")
    assert "screws/calibration.json: expected the file" in refused(apart, "screws")
    assert store.load(apart).calibration == CALIBRATION
    shutil.rmtree(apart / "categories/screws")
    assert "categories/screws/model.safetensors is missing" in refused(apart)


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        "model.safetensors",
        {"model.safetensors": "0"},
        {"../model.safetensors": "0", "calibration.json": "0"},
        {"model.safetensors": "0", "calibration.json": "0", "/etc/hostname": "0"},
        {"model.safetensors": "0", "calibration.json": "0", "categories/../model.safetensors": "0"},
    ],
)
def test_a_list_of_other_files_is_refused(folder, files):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content.pop("sha256")
    path.write_text(json.dumps(sealed({**content, "files": files}, "config")))
    assert "files: expected the files of a model" in refused(folder)


# Numbers that are none.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(old, value):
    def damage(weights):
        weights[KEY][3] = value

    tampered(old, damage)
    assert f"model.safetensors: expected finite numbers, but {KEY!r} has NaN or infinity" in refused(old)


def test_weights_too_large_for_float32_are_refused(old):
    tampered(
        old, lambda weights: weights.update({KEY: torch.full_like(weights[KEY], 1e300, dtype=torch.float64)})
    )
    assert "expected finite numbers" in refused(old)


def test_thresholds_that_never_stop_an_image_are_infinite_and_no_damage(old):
    assert bool(store.load(old).method.stop_thresholds.isinf().all())
    tampered(old, lambda weights: weights["stop_thresholds"].fill_(float("nan")))
    assert "'stop_thresholds' has NaN" in refused(old)
    tampered(old, lambda weights: weights["stop_thresholds"].fill_(-float("inf")))
    assert "'stop_thresholds' has NaN" in refused(old)


@pytest.mark.parametrize("label", ["I32", "U32"])
def test_numbers_under_another_label_are_refused(old, label):
    path = old / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header[KEY]["dtype"] = label
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    assert f"another kind of number in {KEY!r}" in refused(old)


def test_numbers_of_4_bits_are_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    with pytest.raises(InputError, match="damaged or of another format"):
        store.read_weights(tmp_path / "x.safetensors")


def test_a_model_that_diverged_is_not_written(tiny_method, tmp_path):
    method = tiny_method()
    with torch.no_grad():
        method.denoiser.network.conv_in.bias[0] = float("nan")
    with pytest.raises(InputError, match=f"the model: expected finite numbers, but {KEY!r}"):
        store.save(tmp_path / "model", "glad", method, CALIBRATION, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        ({"loss": float("nan")}, "config.json: expected finite numbers to write, got nan as info.loss"),
        ({"curve": [1.0, float("inf")]}, "got inf as info.curve.1"),
        ({"seconds": float("nan")}, "info.seconds: expected a finite number"),
        ({"count": 10**30}, "values that JSON can represent"),
        ({"images": "many"}, "info.images: expected int, got 'many'"),
    ],
)
def test_an_info_that_json_cannot_hold_is_refused(method, tmp_path, info, sentence):
    with pytest.raises(InputError, match=sentence):
        store.save(tmp_path / "model", "glad", method, CALIBRATION, info)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_pixel_scores_is_not_written(method, tmp_path):
    with pytest.raises(InputError, match="as many pixel_scores as scores, 2, got 0"):
        store.save(tmp_path / "model", "glad", method, store.Calibration((1.0, 2.0)), {})
    assert list(tmp_path.iterdir()) == []


# Earlier versions.

VERSION_1 = Path(__file__).parent / "version-1"
"""A model folder as version 1 of the format wrote it."""


def test_a_folder_of_version_1_opens():
    model = store.load(VERSION_1)
    assert model.info == {
        "preset": "tiny",
        "images": 12,
        "categories": ["bolts"],
        "pretrained": [],
        "seed": 0,
        "seconds": 1.5,
    }
    stored = load_file(VERSION_1 / "model.safetensors")
    state = model.method.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], stored[name]) for name in stored)
    scores = json.loads((VERSION_1 / "calibration.json").read_text())
    assert model.calibration.to_dict() == {**scores, "seen": 0, "left_out": 0, "lower": 0}
    found = model.predict(torch.full((2, 3, 32, 32), 0.5))
    assert bool(found.score.isfinite().all())


def test_the_categories_of_a_folder_of_version_1_open():
    assert categories_of(VERSION_1) == ["nuts", "screws"]
    for name in ("nuts", "screws"):
        model = store.load(VERSION_1, category=name)
        scores = json.loads((VERSION_1 / f"categories/{name}/calibration.json").read_text())
        assert model.calibration.to_dict() == {**scores, "seen": 0, "left_out": 0, "lower": 0}


def test_a_folder_of_version_1_is_written_anew_as_one_of_today(tmp_path):
    model = store.load(VERSION_1)
    store.save(tmp_path / "model", model.name, model.method, model.calibration, model.info)
    assert json.loads((tmp_path / "model/config.json").read_text())["version"] == 3
    again = store.load(tmp_path / "model")
    assert (again.calibration, again.info, again.method.config) == (
        model.calibration,
        model.info,
        model.method.config,
    )


VERSION_2 = Path(__file__).parent / "version-2"
"""Model folders as version 2 of the format wrote them, one per method."""
SCORES_2 = {
    "glad": [1.2465834617614746, 1.673945665359497],
    "diad": [1.1250416040420532, 1.5340677499771118],
    "ran": [1.913489818572998, 1.5185935497283936],
}
"""What the code of that time found in two images of noise, with numbers of torch's generator."""


@pytest.mark.parametrize("name", SCORES_2)
def test_a_folder_of_version_2_opens_and_finds_what_it_found(name, monkeypatch):
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))[:2]
    method = store.load(VERSION_2 / name).method

    def noise(image, seeds):
        draws, *shape = method.noise_shape(*image.shape[-2:])
        random = PerImageRandom(seeds)
        return torch.stack([random.like(torch.empty(len(image), *shape)) for _ in range(draws)], dim=1)

    monkeypatch.setattr(method, "noise", noise)
    found = method.find(images, torch.arange(2))
    assert found.score.tolist() == pytest.approx(SCORES_2[name], rel=1e-4)


def test_fields_of_version_2_have_todays_names_and_types():
    glad, diad, ran = (store.load(VERSION_2 / name).method.config for name in ("glad", "diad", "ran"))
    assert (glad.start_timesteps, glad.sampler_steps, glad.noise_timestep) == ((100, 300), 2, 250)
    assert (glad.min_timestep, glad.train_timesteps) == (120, (1, 500))
    assert (glad.readout.position_grid, glad.readout.enlarge) == (4, 1)
    assert (diad.start_timesteps, diad.sampler_steps, diad.noise_timestep) == ((300,), 2, 299)
    assert (diad.readout.position_grid, diad.readout.enlarge) == (2, 0)
    assert (ran.start_timesteps, ran.readout.kl_weight, ran.readout.distance) == (
        (20, 90),
        0.25,
        "mahalanobis",
    )
    assert (ran.readout.position_grid, ran.gradient.reverse_timestep) == (None, 5)
    assert ran.training.cache_gigabytes == 0.5


def version_2(name, tmp_path, **changes):
    """A folder of version 2 with some of its config's fields changed, by dotted name."""
    folder = shutil.copytree(VERSION_2 / name, tmp_path / name)
    content = json.loads((folder / "config.json").read_text())
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = content["config"]
        for parent in parents:
            place = place[parent]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(content))
    reseal(folder)
    return folder


def test_caches_of_version_2_become_gigabytes(tmp_path):
    content = json.loads((VERSION_2 / "diad/config.json").read_text())
    content["config"]["training"]["cache_latents"] = True
    assert migrated(content, "diad")["config"]["training"]["cache_gigabytes"] == 1
    variants = store.load(version_2("glad", tmp_path, variants=8)).method.config
    assert variants.training.cache_gigabytes == pytest.approx(2.147, abs=1e-3)


def test_options_that_only_training_had_are_left_out(tmp_path):
    gone = {"turn": True, "stop_rate": 0.2, "codec__train": True, "synthesis__max_blend": 0.5}
    assert (
        store.load(version_2("glad", tmp_path, **gone)).method.config
        == store.load(VERSION_2 / "glad").method.config
    )


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "diad",
            {"readout__combine": "product"},
            "readout.combine: expected 'sum', the only choice",
        ),
        ("ran", {"gradient__schedule": "linear"}, "gradient.schedule: expected 'constant', the only choice"),
        ("glad", {"spacing": "linspace"}, "spacing: expected one of leading, trailing, got 'linspace'"),
        ("glad", {"fusion": "latent"}, "fusion: expected one of x0, none, got 'latent'"),
        ("glad", {"readout__places": "many"}, "config.readout.position_grid: expected int, got 'many'"),
    ],
)
def test_a_choice_that_is_gone_is_refused(tmp_path, name, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        store.load(version_2(name, tmp_path, **changes))


def test_a_changed_folder_of_version_2_is_refused(tmp_path):
    folder = shutil.copytree(VERSION_2 / "glad", tmp_path / "glad")
    edit(folder / "config.json", mendiff="9.0")
    with pytest.raises(InputError, match="expected an unchanged file, but it was changed or is damaged"):
        store.load(folder)
