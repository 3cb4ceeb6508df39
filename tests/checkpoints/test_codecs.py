import json

import pytest
import torch
from safetensors.torch import save_file

from mendiff.checkpoints.codecs import CONFIG, WEIGHTS, open_codec, read_codec, save_codec
from mendiff.errors import InputError
from mendiff.nets.codec import make_codec


@pytest.fixture
def folder(tmp_path, small_codec):
    save_codec(tmp_path, small_codec, make_codec(small_codec).state_dict(), {"images": 3})
    return tmp_path


def as_version_1(folder):
    """Without hashes, as earlier versions wrote it."""
    content = json.loads((folder / CONFIG).read_text())
    plain = {name: value for name, value in content.items() if name not in ("files", "sha256")}
    (folder / CONFIG).write_text(json.dumps(plain | {"version": 1}))


def test_a_codec_of_version_1_opens(folder, small_codec):
    as_version_1(folder)
    config, weights = read_codec(folder)
    assert config == small_codec
    assert open_codec(folder).state_dict().keys() == weights.keys()


def test_a_codec_that_diverged_is_neither_written_nor_read(folder, small_codec, tmp_path):
    weights = make_codec(small_codec).state_dict()
    name = sorted(weights)[0]
    weights[name] = torch.full_like(weights[name], float("inf"))
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="the codec: expected finite numbers"):
        save_codec(tmp_path / "other", small_codec, weights, {})
    as_version_1(folder)
    save_file({key: one.contiguous() for key, one in weights.items()}, folder / WEIGHTS)
    with pytest.raises(InputError, match=f"expected finite numbers, but '{name}'"):
        open_codec(folder)


def test_what_is_saved_is_what_is_opened(folder, small_codec, pictures):
    config, weights = read_codec(folder)
    assert config == small_codec
    codec = open_codec(folder)
    assert all(torch.equal(weights[name], one) for name, one in codec.state_dict().items())
    assert codec.decode(codec.encode(pictures)).shape == pictures.shape
    assert not any(one.requires_grad for one in codec.parameters())


@pytest.mark.parametrize(
    ("info", "pixels"),
    [
        ({"before": {}, "after": {}}, "symmetric"),
        ({"held_back": {}}, "symmetric"),
        ({"converted": "a.ckpt"}, ""),
    ],
)
def test_folders_that_do_not_say_were_tuned_here_on_plain_pixels(tmp_path, small_codec, info, pixels):
    save_codec(tmp_path, small_codec, make_codec(small_codec).state_dict(), info)
    content = json.loads((tmp_path / CONFIG).read_text())
    del content["config"]["pixels"], content["files"], content["sha256"]
    content["version"] = 1
    (tmp_path / CONFIG).write_text(json.dumps(content))
    assert read_codec(tmp_path)[0].pixels == pixels


def test_strangers_and_damaged_folders_are_refused(folder, small_codec, tmp_path_factory):
    with pytest.raises(InputError, match="expected a codec folder with"):
        open_codec(tmp_path_factory.mktemp("empty"))
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(content | {"version": 3}))
    with pytest.raises(
        InputError, match="expected a codec folder of version 2 or older, got format 'mendiff codec' of"
    ):
        open_codec(folder)
    for change in ({"version": 1}, {"files": {}}, {"config": {"factor": 2}}, {"sha256": None}):
        (folder / CONFIG).write_text(json.dumps(content | change))
        with pytest.raises(InputError, match="it was changed or is damaged"):
            open_codec(folder)
    (folder / CONFIG).write_text(json.dumps(content))
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))
    with pytest.raises(InputError, match="expected the file that was written with this codec"):
        open_codec(folder)


def test_weights_of_another_codec_are_refused_by_name(folder, small_codec):
    as_version_1(folder)
    weights = make_codec(small_codec).state_dict()
    weights["network.strange"] = weights.pop(sorted(weights)[0])
    save_file({name: one.contiguous() for name, one in weights.items()}, folder / WEIGHTS)
    with pytest.raises(InputError, match="expected the weights of its config's codec, but it lacks 'network"):
        open_codec(folder)
