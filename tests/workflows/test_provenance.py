"""Models say what they were fitted on and with, and nothing else passes for it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import mendiff
from mendiff.anomalib_models import GoodImages
from mendiff.checkpoints import store
from mendiff.checkpoints.files import fingerprint, sealed, sha256_of
from mendiff.checkpoints.model_folder import categories_of
from mendiff.checkpoints.provenance import Fitted, fitted_of, with_fitted
from mendiff.cli import main
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError
from mendiff.methods.glad import Glad
from mendiff.methods.glad import Glad as GladMethod
from mendiff.runs.variants import split_as_fitted, variant
from mendiff.training.split import choose, held_back_and_seen
from mendiff.workflows import tune
from mendiff.workflows.tune import Trial

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")

NETWORK = (
    "{block_out_channels: [8, 16], layers_per_block: 1, down_block_types: [DownBlock2D, DownBlock2D], "
    "up_block_types: [UpBlock2D, UpBlock2D], norm_num_groups: 4, add_attention: false}"
)
SETTINGS = (
    *("image_size=32", "crop=0", "training.batch_size=4", f"denoiser.network={NETWORK}"),
    *("readout.bank_size=200", "readout.enlarge=0"),
)


def options(*settings):
    return [word for one in (*SETTINGS, *settings) for word in ("--set", one)]


def draw(folder, seed, count=12):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        image = np.full((32, 32, 3), 120, np.uint8) + rng.integers(0, 30, (32, 32, 3), dtype=np.uint8)
        image[:, ::8] += 60
        Image.fromarray(image).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two categories in MVTec layout."""
    root = tmp_path_factory.mktemp("data") / "parts"
    for number, name in enumerate(("nuts", "screws")):
        draw(root / name / "train/good", number)
        draw(root / name / "test/good", number + 10, 1)
        draw(root / name / "test/spot", number + 20, 1)
    return root


@pytest.fixture(scope="module")
def backbone(data):
    """Options that name a small network with random weights, and its file."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weights = timm.create_model("test_resnet", pretrained=False).state_dict()
    weights = {name: one - 0.1 if name.endswith("running_mean") else one for name, one in weights.items()}
    save_file(weights, data.parent / "backbone.safetensors")
    return "--features", "test_resnet", "--features-weights", str(data.parent / "backbone.safetensors")


@pytest.fixture(scope="module")
def fitted(data, backbone):
    """A model of one category with a backbone."""
    out = data.parent / "model"
    words = ("--seed", "5", *backbone, *options("training.steps=2"))
    assert main(["fit", str(data / "nuts"), "-o", str(out), "--json", *words]) == 0
    return out


@pytest.fixture(scope="module")
def apart(data):
    """A model of both, with statistics of its own for each."""
    out = data.parent / "apart"
    words = ("--statistics", "category", *options("training.steps=2", "features.name=''"))
    assert main(["fit", str(data), "-o", str(out), "--json", *words]) == 0
    return out


@pytest.fixture
def told(capsys):
    """Run a command line that must end with code 2 and one sentence; gives the sentence."""

    def go(*words):
        capsys.readouterr()
        code = main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        assert len(err.splitlines()) == 1
        return err

    return go


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(Glad, "SEARCHED", {"start_timesteps": [[900]]})
    monkeypatch.setattr(tune, "FEWEST", 4)


def seeds_of(folder):
    images = GoodImages(sorted(folder.glob("*.png")), 32)
    return [one.seed for one in images.identities]


def without_record(folder, copied):
    """A copy of a model folder as a version wrote it that kept no record of its fit."""
    shutil.copytree(folder, copied)
    content = json.loads((copied / "config.json").read_text())
    content.pop("sha256")
    content["info"].pop("fitted")
    (copied / "config.json").write_text(json.dumps(sealed(content, "config")))
    return copied


# What is kept.


def test_a_model_says_what_it_was_fitted_on_and_with(fitted, data, backbone):
    record = fitted_of(mendiff.load(fitted).info)
    seeds = seeds_of(data / "nuts/train/good")
    assert sorted(record.held_back) == choose(seeds)
    assert (record.data, record.images) == (fingerprint(seeds), 12)
    assert (record.seed, record.steps, record.image_size) == (5, 2, 32)
    assert record.files == {"features": sha256_of(backbone[-1])}
    assert record.machine.threads == torch.get_num_threads()
    assert record.machine.torch == torch.__version__
    assert record.machine.processor
    assert record.machine.device == "cpu"


def test_info_shows_it(fitted, backbone, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    record = fitted_of(mendiff.load(fitted).info)
    assert main(["info", str(fitted)]) == 0
    told = capsys.readouterr().out
    assert f"12 images, fingerprint {record.data[:12]}; 4 held back" in told
    assert f"SHA-256 of features {sha256_of(backbone[-1])[:12]}" in told
    assert f"{record.machine.processor} ({record.machine.capability})" in told
    assert main(["info", str(fitted), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["info"]["fitted"]["data"] == record.data


def test_a_model_for_categories_holds_back_images_of_each(apart, data):
    record = fitted_of(mendiff.load(apart).info)
    both = [seeds_of(data / name / "train/good") for name in ("nuts", "screws")]
    assert set(record.held_back) == {seed for seeds in both for seed in choose(seeds)}
    assert record.data == fingerprint(seed for seeds in both for seed in seeds)


def test_a_module_of_anomalib_saves_what_is_known(apart, tmp_path, data):
    from mendiff.anomalib_models import train

    config = store.load(apart).method.config
    module = mendiff.Glad(dataclasses.replace(config, training=dataclasses.replace(config.training, steps=1)))
    paths = sorted((data / "nuts/train/good").glob("*.png"))
    train(module, GoodImages(paths, 32), workdir=tmp_path / "work")
    module.save(tmp_path / "model", {"words": "mine"})
    info = mendiff.load(tmp_path / "model").info
    seeds = seeds_of(data / "nuts/train/good")
    assert info["words"] == "mine"
    record = fitted_of(info)
    assert (record.data, record.images, record.steps) == (fingerprint(seeds), 12, 1)
    assert sorted(record.held_back) == choose(seeds)


# Mismatches.


def test_tune_refuses_other_data(told, fitted, data, tmp_path):
    out = tmp_path / "out"
    sentence = told("tune", fitted, data / "screws", "-o", out)
    assert "data: expected the 12 good images of the model's fit" in sentence
    assert "got 12 images with 0 of its 4 held-back images" in sentence
    assert "got 24 images with 4 of its 4" in told("tune", fitted, data, "-o", out)
    some = shutil.copytree(data / "nuts", tmp_path / "some")
    (some / "train/good/3.png").unlink()
    assert "got 11 images with 4 of its 4" in told("tune", fitted, some, "-o", out)
    assert not out.exists()


def test_tune_refuses_other_categories(told, apart, data, tmp_path):
    sentence = told("tune", apart, data, "--categories", "nuts", "-o", tmp_path / "out")
    assert "expected the categories for which" in sentence
    assert "(nuts, screws), got nuts" in sentence


def test_a_variant_refuses_other_images_and_another_backbone_file(fitted, data, backbone, tmp_path):
    model = mendiff.load(fitted)
    paths = sorted((data / "nuts/train/good").glob("*.png"))
    changes = {"features.layers": ["stage1", "stage2"]}
    assert variant(model, changes, paths, backbone[-1]).method.config.features.layers == ("stage1", "stage2")
    weights = load_file(backbone[-1])
    save_file({name: one + 1 for name, one in weights.items()}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="expected the backbone file of the model's fit"):
        variant(model, changes, paths, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="data: expected the 12 good images"):
        variant(model, {"min_timestep": 5}, paths[:8])


# Held-back images.


def test_held_back_images_are_those_that_the_model_names(fitted, data):
    model = mendiff.load(fitted)
    images = [model.prepare(path) for path in sorted((data / "nuts/train/good").glob("*.png"))]
    seeds = content_seeds(torch.stack(images)).tolist()
    others = tuple(sorted(set(seeds) - set(choose(seeds))))[:5]
    record = dataclasses.replace(fitted_of(model.info), held_back=others)
    named = dataclasses.replace(model, info=with_fitted(model.info, record))
    kept, seen = split_as_fitted(named, images)
    assert content_seeds(torch.stack(kept)).tolist() == list(others)
    assert sorted(content_seeds(torch.stack(seen)).tolist()) == sorted(set(seeds) - set(others))


def test_a_model_that_names_none_is_split_as_fit_does(fitted, data, tmp_path):
    model = mendiff.load(without_record(fitted, tmp_path / "old"))
    images = [model.prepare(path) for path in sorted((data / "nuts/train/good").glob("*.png"))]
    kept = split_as_fitted(model, images)[0]
    assert content_seeds(torch.stack(kept)).tolist() == choose(seeds_of(data / "nuts/train/good"))


@pytest.mark.parametrize(("recorded", "chosen"), [(True, True), (False, False)])
def test_tune_keeps_the_categories_and_takes_no_image_for_held_back_that_was_trained_on(
    apart, data, tmp_path, monkeypatch, capsys, recorded, chosen
):
    beds = []
    search = tune.search
    monkeypatch.setattr(
        tune, "search", lambda model, bed, terminal: (beds.append(bed), search(model, bed, terminal))[1]
    )
    monkeypatch.setattr(Trial, "beats", lambda self, other: chosen)
    folder = apart if recorded else without_record(apart, tmp_path / "old")
    words = ("-o", str(tmp_path / "out"), "--repetitions", "2", "--json")
    assert main(["tune", str(folder), str(data), *words]) == 0
    (bed,) = beds
    both = {name: seeds_of(data / name / "train/good") for name in ("nuts", "screws")}
    held_back = {seed for seeds in both.values() for seed in choose(seeds)}
    assert set(content_seeds(torch.stack([*bed.calibrating, *bed.testing])).tolist()) == held_back
    assert not set(content_seeds(torch.stack(bed.seen)).tolist()) & held_back
    tuned = tmp_path / "out/model"
    assert categories_of(tuned) == ["nuts", "screws"]
    assert store.load(tuned).method.config.start_timesteps == ((900,) if chosen else (50, 200))
    for name, seeds in both.items():
        before, after = store.load(apart, category=name), store.load(tuned, category=name)
        assert (before.calibration == after.calibration) is not chosen
        folder = data / name / "train/good"
        images = [after.prepare(path) for path in sorted(folder.glob("*.png"))]
        kept, seen = held_back_and_seen(images, choose(seeds))
        again = after.calibrated(kept, seen, category=name)
        assert after.calibration.scores == pytest.approx(again.calibration.scores, rel=1e-4)


def test_tune_keeps_the_stop_rules_own_features(fitted, data, backbone, tmp_path, capsys, monkeypatch):
    """They come from a file that the model folder holds alone."""
    model = store.load(fitted)
    config = dataclasses.replace(model.method.config, own_stop_features=True, adaptive=True)
    method = GladMethod(config).eval()
    own = method.state_dict()
    own |= {name: one for name, one in model.method.state_dict().items() if name in own}
    own |= {
        name: one + 0.01
        for name, one in own.items()
        if name.startswith("stop_features.") and "tracked" not in name
    }
    own["stop_thresholds"] = torch.ones_like(own["stop_thresholds"])
    method.load_state_dict(own)
    store.save(tmp_path / "model", "glad", method, model.calibration, model.info)
    monkeypatch.setattr(Trial, "beats", lambda self, other: True)
    words = ("-o", str(tmp_path / "out"), "--repetitions", "2", "--json")
    assert main(["tune", str(tmp_path / "model"), str(data / "nuts"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == {"start_timesteps": [900]}
    tuned = store.load(tmp_path / "out/model").method.state_dict()
    names = [name for name in own if name.startswith("stop_features.")]
    assert len(names) > 10
    assert all(torch.equal(tuned[name], own[name]) for name in names)


# Trainings that diverge.

DIVERGING = ("training.steps=8", "training.learning_rate=1e30", "training.warmup=0")


@pytest.mark.parametrize("method", ["glad", "diad"])
def test_a_fit_that_diverged_leaves_nothing(told, data, tmp_path, monkeypatch, method):
    from mendiff.anomalib_models import training

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    settings = options("features.name=''", *DIVERGING)
    if method == "diad":
        settings[settings.index(f"denoiser.network={NETWORK}")] = "denoiser.network=" + NETWORK.replace(
            "add_attention: false", "mid_block_type: UNetMidBlock2D, cross_attention_dim: 8"
        )
    sentence = told("fit", data / "nuts", "-o", tmp_path / "model", "--method", method, *settings)
    assert "training: expected a loss that stays finite, but it grew without bounds" in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_codec_that_diverged_leaves_nothing(told, data, tmp_path, monkeypatch):
    from mendiff.training import loop

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    words = [word for one in (*SETTINGS[:2], *DIVERGING) for word in ("--set", one)]
    sentence = told("fit-codec", data / "nuts", "-o", tmp_path / "codec", *words)
    assert "training: expected a loss that stays finite" in sentence
    assert list(tmp_path.iterdir()) == []


# Scores that are no numbers, at the command line.


def test_images_are_named_by_their_files(apart, told, data, tmp_path, monkeypatch, capsys):
    predict = GladMethod.predict

    def poisoned(self, image, seeds):
        found = predict(self, image, seeds)
        found.score[-1] = float("nan")
        return found

    monkeypatch.setattr(GladMethod, "predict", poisoned)
    folder = data / "nuts/train/good"
    words = (apart, folder, "-o", tmp_path / "findings", "--batch-size", "4")
    assert main(["predict", *map(str, words)]) == 2
    last = sorted(folder.glob("*.png"))[3]
    assert f"{last}: expected finite scores and maps, got NaN or infinity" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    sentence = told("evaluate", apart, data / "nuts")
    assert "/test/spot/0.png: expected finite scores and maps" in sentence


def test_a_record_survives_json():
    record = Fitted((1, 2**63 - 1), "ab", 3, files={"codec": "cd"})
    assert fitted_of(json.loads(json.dumps(with_fitted({}, record)))) == record
