"""--resume continues only with the inputs of the start, or names what differs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mendiff.cli import main
from mendiff.workflows import fit_codec, fit_features

VERSION_1 = Path(__file__).parents[1] / "checkpoints/version-1"
"""A fitted GLAD of 32 pixels."""
NETWORK = (
    "{block_out_channels: [8, 16], layers_per_block: 1, down_block_types: [DownBlock2D, DownBlock2D], "
    "up_block_types: [UpBlock2D, UpBlock2D], norm_num_groups: 4, add_attention: false}"
)
FIT = ("image_size=32", "crop=0", "training.steps=3", "features.name=", f"denoiser.network={NETWORK}")
CODEC = ("image_size=32", "crop=0", "training.steps=3")
START = "--resume: expected the inputs of the interrupted training, but "


def draw(folder, seed, count=9):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("good", "other")):
        draw(root / name, number)
    backbones = []
    import timm

    for seed in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weights = timm.create_model("test_resnet", pretrained=False).state_dict()
        weights = {name: one - 0.1 if name.endswith("running_mean") else one for name, one in weights.items()}
        backbones.append(root / f"backbone{seed}.safetensors")
        save_file(weights, backbones[-1])
    return root


def options(settings):
    return [word for one in settings for word in ("--set", one)]


@pytest.fixture
def told(capsys):
    """Run a command line that must end with code 2 and one sentence; gives the sentence."""

    def go(*words):
        capsys.readouterr()
        code = main([*map(str, words), "--json"])
        err = capsys.readouterr().err
        assert code == 2, err
        return err.splitlines()[-1]

    return go


def interrupt(monkeypatch, place, name, checkpoint):
    """Have a training leave a checkpoint and stop; once it did, none may begin."""

    def stop(*args, **options):
        assert not checkpoint.is_file(), "a training began that should have been refused"
        checkpoint.write_bytes(b"weights")
        raise KeyboardInterrupt

    monkeypatch.setattr(place, name, stop)


@pytest.fixture
def started(data, tmp_path, monkeypatch, capsys):
    """An interrupted fit; the words of its command line but for the data."""
    from mendiff import anomalib_models

    interrupt(monkeypatch, anomalib_models, "train", tmp_path / ".model.fit/last.ckpt")
    words = ("-o", str(tmp_path / "model"), "--features", "test_resnet")
    words += ("--features-weights", str(data / "backbone0.safetensors"), *options(FIT[:3] + FIT[4:]))
    assert main(["fit", str(data / "good"), *words]) == 130
    return words


@pytest.mark.parametrize(
    ("folder", "words", "difference"),
    [
        ("other", (), "data.good has changed"),
        ("good", ("--seed", "7"), "seed was 0 and is 7"),
        (
            "good",
            ("--set", "training.learning_rate=0.01"),
            "config.training.learning_rate was 0.001 and is 0.01",
        ),
        ("good", ("--image-size", "64"), "config.image_size was 32 and is 64"),
        ("good", ("--set", "training.steps=2"), "config.training.steps was 3 and is 2"),
        ("good", ("--set", "training.steps=20"), "config.training.steps was 3 and is 20"),
        ("good", ("--method", "ran"), 'method was "glad" and is "ran"'),
        ("good", ("--balance", "category"), 'balance was "image" and is "category"'),
        ("good", ("--features-weights", "1"), "files.features has changed"),
        ("good", ("--textures", "other"), "files.textures has changed"),
    ],
)
def test_a_fit_goes_on_with_nothing_else(data, started, told, tmp_path, folder, words, difference):
    words = [str(data / f"backbone{word}.safetensors") if word == "1" else word for word in words]
    words = [str(data / word) if word == "other" else word for word in words]
    if "ran" in words:
        words += options(["window=0", "codec.factor=8"])
    before = (tmp_path / ".model.fit/last.ckpt").read_bytes()
    sentence = told("fit", data / folder, *started, "--resume", *words)
    assert START in sentence
    assert difference in sentence
    assert "give the same inputs, or start a new training without --resume" in sentence
    assert (tmp_path / ".model.fit/last.ckpt").read_bytes() == before
    assert not (tmp_path / "model").exists()


def test_images_that_were_changed_or_exchanged_are_told_by_their_category(data, started, told, tmp_path):
    changed = shutil.copytree(data / "good", tmp_path / "good")
    shutil.copy(changed / "1.png", changed / "0.png")
    assert f"{START}data.good has changed; give the same" in told("fit", changed, *started, "--resume")
    for one, other in (("0", "x"), ("1", "0"), ("x", "1")):
        shutil.copy(data / "good" / f"{'1' if one == '0' else '0'}.png", changed / f"{other[0]}.png")
    (changed / "x.png").unlink()
    assert "data.good has changed" in told("fit", changed, *started, "--resume")


def test_the_same_fit_goes_on(data, started, monkeypatch, tmp_path, capsys):
    from mendiff import anomalib_models

    def stop(*args, resume=False, **options):
        assert resume
        raise KeyboardInterrupt

    monkeypatch.setattr(anomalib_models, "train", stop)
    copied = shutil.copytree(data / "good", tmp_path / "good")  # where the files lie makes no difference
    assert main(["fit", str(copied), *started, "--resume"]) == 130


def test_a_working_folder_without_a_manifest_is_refused(data, started, told, tmp_path):
    (tmp_path / ".model.fit/manifest.json").unlink()
    sentence = told("fit", data / "good", *started, "--resume")
    assert "expected manifest.json with the inputs of the interrupted training" in sentence
    (tmp_path / ".model.fit/manifest.json").write_text("{")
    assert "manifest.json: expected JSON, but it is damaged" in told(
        "fit", data / "good", *started, "--resume"
    )


def test_what_was_started_is_plain_json(started, tmp_path):
    content = json.loads((tmp_path / ".model.fit/manifest.json").read_text())
    assert content["method"] == "glad"
    assert content["config"]["image_size"] == 32
    assert set(content["files"]) == {"features"}
    assert set(content["data"]) == {"good"}


@pytest.mark.parametrize(
    ("folder", "words", "difference"),
    [
        ("other", (), "data."),
        ("good", ("--seed", "7"), "seed was 0 and is 7"),
        (
            "good",
            ("--set", "training.learning_rate=0.5"),
            "config.training.learning_rate was 0.001 and is 0.5",
        ),
        ("good", ("--set", "image_size=64"), "image_size was 32 and is 64"),
        ("good", ("--set", "training.steps=2"), "config.training.steps was 3 and is 2"),
    ],
)
def test_a_codec_goes_on_with_nothing_else(data, told, tmp_path, monkeypatch, folder, words, difference):
    interrupt(monkeypatch, fit_codec, "train_network", tmp_path / ".codec.fit/last.safetensors")
    fit = ("-o", tmp_path / "codec", *options(CODEC))
    assert main(["fit-codec", str(data / "good"), *map(str, fit)]) == 130
    sentence = told("fit-codec", data / folder, *fit, "--resume", *words)
    assert START in sentence
    assert difference in sentence


def test_tuned_features_go_on_with_nothing_else(data, told, tmp_path, monkeypatch, capsys):
    interrupt(monkeypatch, fit_features, "_tune", tmp_path / ".tuned.fit/last.safetensors")
    fit = ("-o", tmp_path / "tuned", "--features", "test_resnet", "--model", VERSION_1)
    fit += ("--features-weights", data / "backbone0.safetensors")
    assert main(["fit-features", str(data / "good"), *map(str, fit)]) == 130, capsys.readouterr().err
    assert f"{START}data." in told("fit-features", data / "other", *fit, "--resume")
    assert "seed was 0 and is 3" in told("fit-features", data / "good", *fit, "--resume", "--seed", 3)
    other = ("--features-weights", data / "backbone1.safetensors")
    assert "files.features has changed" in told("fit-features", data / "good", *fit, "--resume", *other)
    model = shutil.copytree(VERSION_1, tmp_path / "model")
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    assert "files.model has changed" in told(
        "fit-features", data / "good", *fit, "--resume", "--model", model
    )
