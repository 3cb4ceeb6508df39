import subprocess

import pytest
import torch

from mendiff.checkpoints import bundled as room
from mendiff.checkpoints.bundled import (
    CODEC,
    FEATURES,
    FOLDER,
    SUMS,
    bundled_features,
    codec_folder,
    fill,
    known_sums,
    open_features,
    resolved,
    sum_of,
    verified,
)
from mendiff.checkpoints.codecs import WEIGHTS, read_codec
from mendiff.errors import InputError
from mendiff.methods.base import find_method
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.nets.features import FeaturesConfig
from mendiff.nets.student import STAGES

EVERYTHING = (FEATURES, "codec/config.json", "codec/codec.safetensors")
AUTO_EVERYWHERE = {"features.name": "auto", "codec.kind": "auto", "image_size": 64}


@pytest.fixture
def auto_config(tiny_config):
    """GLAD's config with the bundled features and codec."""
    return tiny_config("glad", AUTO_EVERYWHERE)


def bundled_codec():
    return read_codec(codec_folder("auto"))


def test_installed_files_open(bundled):
    assert open_features(STAGES)(torch.rand(1, 3, 32, 32))[0].shape == (1, 24, 8, 8)
    config, weights = bundled_codec()
    assert (config.kind, config.network["scaling_factor"]) == ("tiny", 0.7)
    assert {one.dtype for one in weights.values()} == {torch.float32}


def test_sums_are_those_of_sha256sum(bundled):
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=bundled, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert known_sums().keys() == set(EVERYTHING)


@pytest.mark.parametrize("name", EVERYTHING)
def test_altered_file_is_refused(name, bundled):
    content = bytearray((bundled / name).read_bytes())
    content[-2] ^= 1
    (bundled / name).write_bytes(content)
    with pytest.raises(InputError, match="SHA-256 differs; reinstall mendiff, or name a"):
        bundled_features() if name == FEATURES else bundled_codec()


@pytest.mark.parametrize("name", [*EVERYTHING, SUMS])
def test_missing_file_is_refused(name, bundled):
    (bundled / name).unlink()
    with pytest.raises(InputError, match="a file that comes with mendiff, found none"):
        bundled_features() if name in (FEATURES, SUMS) else bundled_codec()


def test_refusal_names_the_way_out(bundled):
    (bundled / FEATURES).unlink()
    with pytest.raises(InputError, match="--features and --features-weights"):
        bundled_features()


def test_installing_again_keeps_the_other_files(bundled, tmp_path):
    before = known_sums()
    (tmp_path / FEATURES).write_bytes(b"new")
    assert room.install(tmp_path, [FEATURES]) == bundled
    after = known_sums()
    assert after.pop(FEATURES) == sum_of(tmp_path / FEATURES) != before.pop(FEATURES)
    assert after == before


def test_auto_stands_for_shapes_that_can_be_stored(auto_config, bundled):
    config = resolved(auto_config)
    assert (config.features.name, config.codec.kind) == ("bundled", "tiny")
    assert config.features.layers == auto_config.features.layers
    assert config.codec.network["scaling_factor"] == 0.7
    stored = config_from_dict(type(config), config_to_dict(config))
    assert find_method("glad")(stored).features.channels == (24, 32, 96)


def test_config_without_auto_stays_as_it_is(tiny_config):
    for method in ("glad", "diad", "ran"):
        config = tiny_config(method)
        assert resolved(config) is config
    assert resolved(FeaturesConfig("auto")) == FeaturesConfig("auto")  # no config with features


def test_fill_loads_the_bundled_weights(auto_config, bundled):
    method = find_method("glad")(resolved(auto_config))
    fill(method, auto_config)
    for ours, theirs in (
        (method.features.backbone.state_dict(), bundled_features()),
        (method.codec.state_dict(), bundled_codec()[1]),
    ):
        assert all(torch.equal(ours[name], one) for name, one in theirs.items())


def test_fill_leaves_alone_what_is_not_auto(auto_config, bundled):
    config = resolved(auto_config)
    method = find_method("glad")(config)
    before = {name: one.clone() for name, one in method.state_dict().items()}
    fill(method, config)
    assert all(torch.equal(one, before[name]) for name, one in method.state_dict().items())


def test_method_of_a_resolved_config_needs_no_file(auto_config, bundled):
    """So that a model folder opens where the package's networks have changed since."""
    config = resolved(auto_config)
    weights = find_method("glad")(config).state_dict()
    (bundled / FEATURES).unlink()
    find_method("glad")(config).load_state_dict(weights)


def test_codec_by_name(bundled, tmp_path):
    assert codec_folder("auto") == bundled / "codec"
    assert codec_folder(tmp_path) == tmp_path


# What the package itself holds.


def test_files_in_the_package_are_whole_and_small():
    for name in known_sums():
        assert verified(name, "-").stat().st_size <= 3_000_000
    shipped = list(FOLDER.rglob("*.safetensors"))
    assert {one.relative_to(FOLDER).as_posix() for one in shipped} <= known_sums().keys()


def test_features_in_the_package_open():
    assert len(open_features(STAGES)(torch.rand(1, 3, 64, 64))) == 3


@pytest.mark.skipif(f"{CODEC}/{WEIGHTS}" not in known_sums(), reason="the package holds no codec yet")
def test_codec_in_the_package_opens():
    config, _ = bundled_codec()
    assert config.network["latent_channels"] == 16
    assert config.normalise
