"""Every suite and ablation at every size: planned, built, and some of them run, with networks made tiny."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mendiff.calibration import Calibration
from mendiff.cli import main
from mendiff.data.samples import Category
from mendiff.evaluation.ablations import ABLATIONS
from mendiff.evaluation.suites import SUITES
from mendiff.methods.base import METHODS, find_method
from mendiff.methods.config import config_to_dict, override
from mendiff.model import Model
from mendiff.nets.build import build
from mendiff.nets.features import make_features
from mendiff.runs.fit_checks import check_prompts
from mendiff.runs.fit_config import check_sources, stated_config
from mendiff.runs.variants import variant_of
from mendiff.workflows.bench import Bench, SharedInputs, chosen_rows, planned, with_shared_inputs
from mendiff.workflows.spec import config_changes

PRESETS = ("tiny", "small", "paper")
STATED = [(name, None) for name in SUITES] + [(None, name) for name in ABLATIONS]
CONVOLUTIONAL = "test_resnet.r160_in1k"
"""timm's smallest convolutional backbone, in place of the papers'."""
FIVE_STAGES = ("diad-outer-layers",)
"""Ablations that ask for a backbone with more stages than the bundled network has."""
NETWORKS = ("codec", "denoiser", "guide", "features", "own_stop_features")
"""Fields of a config that networks are built from."""


def ours(suite, ablation, preset):
    """The jobs of our methods, with Stable Diffusion given where one of the rows is built on it."""
    named = SUITES.get(suite)
    rows, together = chosen_rows(named, ablation, None, {}, preset)
    categories = list(named.categories) if named else ["bolt", "nut"] if together else ["bolt"]
    features = "resnet18" if ablation in FIVE_STAGES else None
    asked = Bench(rows, categories, together, None, "auto", (0,), preset, features, None, named)
    jobs = {name: job for name, job in planned(asked, "cpu").items() if job.method in METHODS}
    if preset != "paper" or {job.method for job in jobs.values()} == {"ran"}:
        return jobs
    return with_shared_inputs(jobs, SharedInputs("somebody/diffusion"))


@pytest.fixture(scope="module")
def built():
    """(method, networks) that were built already: suites and ablations share most of them."""
    return set()


@pytest.fixture(scope="module")
def networks_on_meta():
    """Networks on the meta device, by their settings: rows and presets share most of them."""
    return {}


@pytest.fixture
def built_once(networks_on_meta, monkeypatch):
    """Methods share codecs, extractors and denoisers of equal settings."""

    def shared(make):
        def made(*settings):
            key = repr((make.__name__, settings))
            if key not in networks_on_meta:
                networks_on_meta[key] = make(*settings)
            return networks_on_meta[key]

        return made

    for name in METHODS:
        monkeypatch.setattr(f"{find_method(name).__module__}.make_features", shared(make_features))
    for part in ("codec", "denoiser"):
        monkeypatch.setattr(f"mendiff.nets.{part}.build", shared(build))


@pytest.mark.usefixtures("built_once")
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("suite", "ablation"), STATED)
def test_every_row_can_be_fitted_at_every_size(suite, ablation, preset, built):
    for job in ours(suite, ablation, preset).values():
        config = stated_config(job.plan)
        check_sources(job.plan, config)
        check_prompts(job.plan, config, [Category(name, None, (), ()) for name in job.categories])
        for changes in ({}, *job.rows.values()):
            changed = override(config, {"image_size": config.image_size or 64, **config_changes(changes)})
            parts = json.dumps({key: one for key, one in config_to_dict(changed).items() if key in NETWORKS})
            if (job.method, parts) not in built:
                with torch.device("meta"):
                    method = find_method(job.method)(changed)
                assert changed.image_size % method.size_multiple == 0
                built.add((job.method, parts))


def test_at_the_papers_size_an_ablation_changes_what_it_is_about_and_nothing_else():
    plain = chosen_rows(SUITES["glad-mvtec"], "glad-pieces", None, {}, "paper")[0]
    assert {field for row in plain for field in (*row.settings, *config_changes(row.changes))} == {
        "synthesis.share",
        "adaptive",
        "fusion",
    }
    assert chosen_rows(None, "glad-pieces", None, {}, "tiny")[0][0].settings["codec.factor"] == 4


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A folder with weights of both small backbones, by their names."""
    import timm

    folder = tmp_path_factory.mktemp("backbones")
    for name in (CONVOLUTIONAL, "test_vit.r160_in1k"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            network = timm.create_model(name, pretrained=False)
        save_file(network.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def small(tiny_config, shrunk):
    """(method, preset) to changes that make its networks tiny."""
    features = {
        "features.name": CONVOLUTIONAL,
        "features.layers": ["stage1", "stage2", "stage3"],
        "features.position_resampling": "timm",
    }
    plain = config_to_dict(tiny_config("ran"))["denoiser"]["network"]
    own = {key: config_to_dict(tiny_config(key)) for key in METHODS}

    def changes(method, preset):
        if preset == "paper" and method != "ran":
            few = {"glad": {"sampler_steps": 4}, "diad": {"image_size": 64, "sampler_steps": 2}}
            return {**shrunk, **features, **few[method]}
        network = plain if method == "ran" else own[method]["denoiser"]["network"]
        sizes = {"image_size": 32, "crop": 0, "denoiser.network": network, **features}
        if method == "ran":
            layers = ["stage1", "stage2"] if preset == "tiny" else ["stage1"]
            return {**sizes, "features.layers": layers, "gradient.dims": 4, "enlarge": 0, "window": 0}
        side = {"image_size": 64} if method == "diad" else {}  # what its poolings need
        readout = {"readout.enlarge": 0, "readout.bank_size": 200}
        return {**sizes, **side, **readout, "codec.factor": 4, "sampler_steps": 4}

    return changes


def kind_of(changes):
    """Changes without the sizes of their numbers; zero stays, since it switches something off."""
    number = re.compile(r'(?<![\w".])[\d.]+')
    return number.sub(lambda one: "n" if float(one[0]) else "0", json.dumps(changes, sort_keys=True))


# At `tiny` the same rows change the same fields of smaller networks: slow, since `paper` holds the rest.
@pytest.mark.parametrize("preset", [pytest.param("tiny", marks=pytest.mark.slow), "paper"])
@pytest.mark.parametrize(
    "name", [name for name, one in ABLATIONS.items() if any(r.changes for r in one.rows)]
)
def test_every_change_of_an_ablation_is_made_to_a_fitted_model(name, preset, small, backbone, pictures):
    made = set()
    for job in ours(None, name, preset).values():
        if not any(map(config_changes, job.rows.values())):
            continue
        config = override(stated_config(job.plan), small(job.method, preset))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            method = find_method(job.method)(config).eval()
        weights = backbone / f"{CONVOLUTIONAL}.safetensors"
        method.features.load_backbone(load_file(weights), str(weights))
        side = (config.image_size, config.image_size)
        images = list(torch.nn.functional.interpolate(pictures[:2], side))
        fitted = Model(job.method, method, Calibration((0.1, 0.2)), {}).calibrated(images, images)
        for changes in map(config_changes, job.rows.values()):
            if changes and kind_of(changes) not in made:
                few = {
                    key: min(value, 3) if key == "sampler_steps" else value for key, value in changes.items()
                }
                changed = variant_of(fitted, few, images, images, weights)
                assert changed.predict(images[:1]).score.isfinite().all()
                made.add(kind_of(changes))
    assert {kind_of(config_changes(row.changes)) for row in ABLATIONS[name].rows if row.changes} <= made


# Whole runs, from the command line to the tables.


@pytest.fixture
def mvtec(tmp_path):
    """Two categories by MVTec AD's names, of small pictures with bright squares as defects."""
    rng = np.random.default_rng(0)
    for category in ("bottle", "carpet"):
        for folder, count, side in (("train/good", 6, 0), ("test/good", 2, 0), ("test/dot", 2, 9)):
            for number in range(count):
                image = rng.integers(90, 120, (40, 40, 3), dtype=np.uint8)
                image[8 : 8 + side, 8 : 8 + side] = 255
                mask = np.zeros((40, 40), np.uint8)
                mask[8 : 8 + side, 8 : 8 + side] = 255
                places = {f"{folder}/{number}.png": image}
                places |= {f"ground_truth/dot/{number}_mask.png": mask} if side else {}
                for place, picture in places.items():
                    (tmp_path / "mvtec" / category / place).parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(tmp_path / "mvtec" / category / place)
    return tmp_path / "mvtec"


@pytest.fixture
def benchmark(mvtec, tmp_path, diffusion, backbone, shrunk, one_process):
    """(method, more options) to the results of a run at preset paper, all in this process."""

    def run(method, *options, **changes):
        settings = {
            **shrunk,
            "training.steps": 1,
            "training.batch_size": 2,
            "training.accumulate": 1,
            "sampler_steps": 4,
            **changes,
        }
        words = [
            f"{method}.{key}={json.dumps(value)}"
            for key, value in settings.items()
            if key != "features.layers"
        ]
        layers = f"{method}.features.layers={json.dumps(changes.get('features.layers', ['block2']))}"
        given = ["--pretrained", str(diffusion), "--prompt", str(diffusion / "prompts.safetensors")]
        given += ["--features-weights", str(backbone), "--preset", "paper", "--json"]
        given += [word for pair in (*words, layers) for word in ("--set", pair)]
        assert main(["benchmark", str(mvtec), "-o", str(tmp_path / "run"), *given, *options]) == 0
        return json.loads((tmp_path / "run/results.json").read_text())

    return run


def published(data, label):
    return {
        one["category"] for one in data["figures"] if one["label"] == label and one["published"] is not None
    }


def test_glads_suite_runs_at_the_papers_preset(benchmark, tmp_path):
    data = benchmark("glad", "--suite", "glad-mvtec", "--methods", "glad", "median-colour")

    presets = [
        json.loads(one.read_text())["preset"] for one in (tmp_path / "run/jobs").glob("glad*/job.json")
    ]
    assert sorted(presets) == ["paper/mvtec/bottle", "paper/mvtec/carpet"]
    assert {(one["label"], *one["categories"]) for one in data["results"]} == {
        (label, name)
        for label in ("glad", "glad, untrained", "median-colour")
        for name in ("bottle", "carpet")
    }
    kept = json.loads((tmp_path / "run/jobs/glad-bottle-0/model/config.json").read_text())
    assert any(line.startswith("UNet: ") for line in kept["info"]["pretrained"])


def test_one_model_with_a_prompt_per_category_runs_and_has_a_threshold_for_each(
    benchmark, diffusion, tmp_path, capsys
):
    together = ["--suite", "glad-mvtec", "--methods", "glad", "--multi-class"]
    prompts = load_file(diffusion / "prompts.safetensors")
    named = {"bottle": prompts["prompt"], "carpet": prompts["prompt"] * 2, "no_prompt": prompts["no_prompt"]}
    save_file(named, tmp_path / "named.safetensors")
    own = {"denoiser.categories": ["bottle", "carpet"], "both_ways": []}

    with pytest.raises(AssertionError):
        benchmark("glad", *together, **own)
    assert "--statistics: expected category" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

    asked = ["--statistics", "category", "--prompt", str(tmp_path / "named.safetensors")]
    data = benchmark("glad", *together, *asked, **own)

    found, untrained = data["results"]
    assert untrained["at_threshold"]["bottle"]["threshold"] != found["at_threshold"]["bottle"]["threshold"]
    model = tmp_path / "run/jobs/glad-all-0/model"
    assert json.loads((model.parent / "job.json").read_text())["preset"] == "paper/mvtec"
    assert {one.name for one in (model / "categories").iterdir()} == {"bottle", "carpet"}
    cuts = found["at_threshold"]
    assert cuts["bottle"]["threshold"] != cuts["carpet"]["threshold"]
    assert published(data, "glad") == set()  # the paper has a model per category


def test_diads_suite_runs_at_the_papers_preset_as_one_model(benchmark, tmp_path):
    data = benchmark("diad", "--suite", "diad-mvtec", "--methods", "diad", image_size=64)

    assert [sorted(one["categories"]) for one in data["results"]] == [["bottle", "carpet"]] * 2
    kept = json.loads((tmp_path / "run/jobs/diad-all-0/model/config.json").read_text())
    assert any(line.startswith("UNet: ") for line in kept["info"]["pretrained"])
    assert published(data, "diad") == set()  # at this size it is not the paper's DiAD


def test_changes_are_made_to_a_fit_at_the_papers_preset(benchmark, tmp_path):
    data = benchmark(
        "glad", "--ablation", "glad-steps", "--categories", "carpet", **{"denoiser.guidance": 0.0}
    )

    rows = [row.label for row in ABLATIONS["glad-steps"].rows]
    assert [one["label"] for one in data["results"]] == [*rows, "adaptive, untrained", "memory-bank"]
    jobs = [path for path in (tmp_path / "run/jobs").iterdir() if path.is_dir()]
    assert len(jobs) == 2  # one fit, and the memory bank
    assert {one["mean_stop_step"] for one in data["results"]} != {None}
