"""`mendiff fit-features`."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import mendiff
from mendiff.checkpoints.store import read_weights
from tests.commands import interrupted_after_three, settings

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


@pytest.fixture
def backbone(tmp_path):
    """Options that name a small convolutional network and a file of random weights."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        weights = timm.create_model("test_resnet", pretrained=False).state_dict()
    for name in weights:
        if name.endswith("running_mean"):
            weights[name] -= 0.1  # zeros would say that norms are folded
    save_file(weights, tmp_path / "backbone.safetensors")
    return "--features", "test_resnet", "--features-weights", tmp_path / "backbone.safetensors"


def test_features_are_tuned_and_taken_by_fit(run, data, model, backbone, tmp_path):
    out, words = tmp_path / "tuned", ("--model", model, "--set", "training.steps=20", "--json")
    code, text, _ = run("fit-features", data, "-o", out, *words, *backbone)
    assert code == 0
    result = json.loads(text)
    assert result["after"]["distance"] < result["before"]["distance"]
    assert result["before"]["drift"] < 1e-6 < result["after"]["drift"]
    assert not (tmp_path / ".tuned.fit").exists()
    before, after = read_weights(backbone[-1]), read_weights(out / "features.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "conv1.0.weight" in moved
    assert not any("running" in name or "tracked" in name for name in moved)
    fitted = tmp_path / "fitted"
    code, _, _ = run("fit", data, "-o", fitted, *settings(), *backbone[:3], out / "features.safetensors")
    assert code == 0
    own = mendiff.load(fitted).method.features.backbone.state_dict()
    assert all(torch.equal(one, after[name].to(one)) for name, one in own.items())


def test_a_heavier_hold_moves_features_less(run, data, model, backbone, tmp_path):
    words = ("--model", model, "--set", "training.steps=20", "--json", *backbone)
    drifts = []
    for weight in (0, 10):
        out = tmp_path / f"held{weight}"
        text = run("fit-features", data, "-o", out, "--set", f"keep_weight={weight}", *words)[1]
        drifts.append(json.loads(text)["after"]["drift"])
    assert drifts[1] < 0.5 * drifts[0]


def test_interrupted_features_go_on_to_the_same_weights(run, data, model, backbone, tmp_path, monkeypatch):
    words = ("--model", model, "--set", "training.steps=6", "--set", "crop=16", "--json", *backbone)
    assert run("fit-features", data, "-o", tmp_path / "whole", *words)[0] == 0
    kept = interrupted_after_three(monkeypatch)
    assert run("fit-features", data, "-o", tmp_path / "broken", *words)[0] == 130
    assert run("fit-features", data, "-o", tmp_path / "broken", "--resume", *words)[0] == 0
    assert kept == [1, 2, 3, 4, 5, 6]
    one, other = (read_weights(tmp_path / name / "features.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def resized_model(own_model):
    """Returns a copy of the fitted model with another geometry."""

    def make(**changes):
        model = mendiff.load(own_model)
        model.method.config = replace(model.method.config, **changes)
        model.save(own_model.with_name("changed"))
        return own_model.with_name("changed")

    return make


def test_reconstructions_of_letterboxed_images_have_their_padding(
    run, data, resized_model, backbone, tmp_path
):
    words = ("--model", resized_model(resize="letterbox"), "--set", "training.steps=1", "--set", "crop=16")
    code, _, err = run("fit-features", data, "-o", tmp_path / "tuned", *words, *backbone)
    assert code == 0, err


def test_models_of_tiles_tune_no_features(refused, data, resized_model, backbone, tmp_path):
    words = ("--model", resized_model(tile=32, upright="never"), *backbone)
    sentence = refused("fit-features", data, "-o", tmp_path / "tuned", *words)
    assert "expected a model of whole images, got tile=32; fit a model without --tile" in sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "--model: expected a fitted model that computes the reconstructions, got none."),
        (("--model", "nowhere"), "nowhere: expected a model folder"),
        (("--features", "auto"), "--features: expected timm's name of a backbone to tune, got 'auto'."),
        (("--features", "zebra"), "features: expected the name of a timm backbone, got 'zebra'"),
        (("--preset", "huge"), "--preset: expected one of tiny, paper, got 'huge'."),
        (("--set", "features.layers=[block3]"), "layers: expected some of stage0..stage4 for test_resnet"),
        (("--set", "keep_weight=-1"), "keep_weight: expected at least 0"),
        (("--set", "crop=20"), "--set crop: expected a multiple of 16, got 20; try 16."),
        (("--resume",), "--resume: expected an interrupted fit of"),
    ],
)
def test_fit_features_refuses(refused, data, model, backbone, tmp_path, words, sentence):
    given = (*backbone, *(("--model", model) if words else ()), *words)
    assert sentence in refused("fit-features", data, "-o", tmp_path / "tuned", *given)


def test_overwrite_replaces_tuned_features_only_by_tuned_features(refused, run, data, own_model, backbone):
    sentence = refused("fit-features", data, "-o", own_model, "--overwrite", *backbone)
    assert "--overwrite only replaces tuned features here, but this folder holds a model" in sentence
