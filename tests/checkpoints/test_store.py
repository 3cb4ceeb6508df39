import errno
import json
import shutil
import stat

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mendiff import __version__
from mendiff.calibration import Calibration
from mendiff.checkpoints import store
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


def edit(path, **changes):
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


# Writing.


def test_a_model_is_three_files(written):
    assert sorted(file.name for file in written.iterdir()) == sorted(
        ["calibration.json", "config.json", "model.safetensors"]
    )
    assert [other.name for other in written.parent.iterdir()] == ["bolts"]
    config = json.loads((written / "config.json").read_text())
    assert (config["format"], config["version"], config["mendiff"]) == ("mendiff", 1, __version__)
    assert config["info"] == INFO


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


ROOM = "expected room on the disk, but it is full .*; make room or choose another place"


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

    monkeypatch.setattr(store, "save_file", full)
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
    with pytest.raises(InputError, match=r"config.json is not mendiff's"):
        store.load(folder)


@pytest.mark.parametrize("version", [2, 99, "1", None, ...])
def test_a_newer_version_is_refused_with_what_to_do(folder, version):
    edit(folder / "config.json", version=version, mendiff="9.0")
    with pytest.raises(InputError, match=r"version 1 or older, got version .* mendiff 9.0; update mendiff"):
        store.load(folder)


@pytest.mark.parametrize("key", ["method", "config", "info"])
def test_a_missing_field_is_named(folder, key):
    edit(folder / "config.json", **{key: ...})
    with pytest.raises(InputError, match=f"lacks the field '{key}'"):
        store.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gan"}, "expected one of .*glad.*, got 'gan'"),
        ({"method": ["glad"]}, "expected one of .*glad"),
        ({"config": 5}, "config: expected a group of fields, got 5"),
        ({"config": {"step": 1}}, r"config.json: config: expected some of .*, got 'step'"),
        ({"config": {"steps": "many"}}, r"config.json: config.steps: expected int, got 'many'"),
    ],
)
def test_a_config_that_fits_no_method_is_refused(folder, changes, message):
    edit(folder / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        store.load(folder)


# Damage.


@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null", b"[" * 100_000])
def test_damaged_json_is_refused_by_the_files_name(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: expected"):
        store.load(folder)


def test_a_method_that_is_not_known_is_refused_by_the_files_name(folder):
    edit(folder / "config.json", method="zebra")
    with pytest.raises(InputError, match=r"config\.json: method: expected one of .*, got 'zebra'"):
        store.load(folder)


def test_weights_get_the_permissions_of_other_new_files(tmp_path):
    (tmp_path / "plain").touch()
    store.write_weights({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    assert len({stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}) == 1


def test_damaged_calibration_is_refused(folder):
    edit(folder / "calibration.json", scores=["high", "low"])
    with pytest.raises(InputError, match=r"calibration\.json: expected numbers"):
        store.load(folder)
    edit(folder / "calibration.json", scores=[1.0])
    with pytest.raises(InputError, match="at least 2 good images"):
        store.load(folder)


def test_truncated_weights_are_refused_at_every_length(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            InputError, match=r"model.safetensors: expected a safetensors file, but it is damaged"
        ):
            store.load(folder)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda whole: b"\x80\x02}q\x00." * 100, "but it is a pickle, which can run code"),
        (lambda whole: b"PK\x03\x04" + whole, "but it is a pickle, which can run code"),
        (lambda whole: whole[: len(whole) // 2], "damaged or of another kind .*; fetch it again"),
        (lambda whole: whole[:5], "damaged or of another kind .*; fetch it again"),
        (lambda whole: b"", "damaged or of another kind .*; fetch it again"),
    ],
    ids=["pickle", "torch.save", "half", "five bytes", "empty"],
)
def test_weights_that_are_no_safetensors_are_refused(folder, damage, sentence):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=sentence):
        store.load(folder)


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
def test_weights_of_another_model_are_refused_by_name(folder, change, message):
    tampered(folder, change)
    with pytest.raises(InputError, match=f"model.safetensors: .* {message}"):
        store.load(folder)


def test_half_precision_weights_load_as_full_precision(folder):
    tampered(folder, lambda weights: weights.update({KEY: torch.full_like(weights[KEY], 0.1).half()}))
    bias = store.load(folder).method.denoiser.network.conv_in.bias
    assert bias.dtype == torch.float32
    assert torch.equal(bias, torch.full_like(bias, 0.1).half().float())


def test_weights_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected a safetensors file, but there is no such file"):
        store.read_weights(tmp_path / "absent.safetensors")


def test_a_device_that_is_not_there_is_refused(written):
    for device in ("abacus", "cuda:99"):
        with pytest.raises(InputError, match=f"expected one that this machine has, got '{device}'"):
            store.load(written, device)
