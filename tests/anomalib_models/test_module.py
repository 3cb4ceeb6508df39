"""A model through anomalib's Engine, and how it is stored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.models import get_model
from lightning.pytorch import Callback
from scipy.stats import kstest

import mendiff
from mendiff.anomalib_models import Glad, GoodImages, Ran, module_class, train
from mendiff.anomalib_models.processing import Finish
from mendiff.checkpoints.files import fingerprint
from mendiff.checkpoints.provenance import fitted_of
from mendiff.data.images import resize, save_png
from mendiff.data.reading import read_image
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError
from mendiff.export.image_graph import ImageGraph, ImageNoise, antialiased
from mendiff.methods.config import override
from mendiff.methods.glad_config import PRESETS
from mendiff.nets.denoiser import DenoiserConfig
from tests.parts import CONFIG, NETWORK, datamodule, engine, loader, picture, pictures, same_tensors
from tests.test_readme import example

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


def test_engine_trains_as_long_as_the_config_says(fitted):
    model, runner, _ = fitted
    assert runner.trainer.global_step == CONFIG.training.steps
    assert model.calibration.held_back == 4


def test_engine_evaluates(fitted, folder):
    model, runner, _ = fitted
    (results,) = runner.test(model, datamodule=datamodule(folder), verbose=False)
    assert set(results) == {"image_AUROC", "image_AUPR", "image_F1Max", "pixel_AUROC", "pixel_AUPRO"}
    # White squares on noise are found by any reconstruction that is not the input itself.
    assert results["image_AUROC"] > 0.9


def test_engine_validates(fitted, folder):
    model, _, _ = fitted
    seen = []

    class Look(Callback):
        def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            seen.append(outputs)

    engine(folder.parent / "validation", Look()).validate(model, datamodule=datamodule(folder), verbose=False)
    scores = torch.cat([batch.pred_score for batch in seen])
    assert len(scores) > 0
    assert ((scores > 0) & (scores < 1)).all()


def test_engine_predicts_what_the_method_finds(fitted, folder):
    model, runner, _ = fitted
    batches = runner.predict(model, datamodule=datamodule(folder), return_predictions=True)
    scores = torch.cat([batch.pred_score for batch in batches])
    files = [path for batch in batches for path in batch.image_path]
    images = torch.stack([resize(read_image(path), 32) for path in files])
    found = model.method.predict(images, content_seeds(images))
    assert torch.equal(scores.argsort(), found.score.argsort())
    assert torch.equal(
        torch.cat([batch.pred_label for batch in batches]), found.score > model.calibration.threshold
    )
    masks = torch.cat([batch.pred_mask for batch in batches])
    assert torch.equal(masks, found.anomaly_map[:, 0] > model.calibration.pixel_threshold)


@pytest.fixture(scope="module")
def graphs(fitted, tmp_path_factory):
    """The model as graphs of both formats; torch's exporter takes seconds."""
    model, runner, _ = fitted
    root = tmp_path_factory.mktemp("graphs")
    first = runner.export(model, export_type="onnx", export_root=root)
    with pytest.MonkeyPatch.context() as patch:  # to_openvino converts the graph of to_onnx
        patch.setattr(model, "to_onnx", lambda *_, **__: first)
        return [first, runner.export(model, export_type="openvino", export_root=root)]


@pytest.fixture(scope="module")
def expected(fitted, folder, tmp_path_factory):
    """Files of images, and what the model finds in them with the noise of its graph."""
    model, *_ = fitted
    large = tmp_path_factory.mktemp("large") / "large.png"
    # Sizes whose resized pixels are not halfway between two 8-bit values.
    save_png(np.random.default_rng(3).integers(0, 256, (45, 77, 3), dtype=np.uint8), large)
    files = [folder / "good" / "0.png", folder / "bad" / "3.png", large]
    pixels = [torch.from_numpy(read_image(path)).permute(2, 0, 1)[None] / 255 for path in files]
    images = torch.cat([antialiased(one, 32) for one in pixels])  # equal in every 8-bit pixel
    found = model.method.detect(images, ImageNoise(model.method.noise_shape(32, 32), 32)(images))
    return files, model.post_processor(InferenceBatch(pred_score=found.score, anomaly_map=found.anomaly_map))


def test_the_traced_function_of_images_is_the_prediction(fitted, expected):
    model, *_ = fitted
    files, findings = expected
    graph = ImageGraph(model.method, Finish(model.post_processor))
    assert graph.finish.outputs == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    for row, file in enumerate(files):
        pixels = torch.from_numpy(read_image(file)).permute(2, 0, 1)[None] / 255
        for found, name in zip(graph(pixels), graph.finish.outputs, strict=True):
            torch.testing.assert_close(found[0], getattr(findings, name)[row], rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # torch's exporter takes more than ten seconds
def test_anomalibs_inferencer_opens_graphs(expected, graphs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the inferencer writes a cache
    files, findings = expected
    for path in graphs:
        inferencer = OpenVINOInferencer(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for row, file in enumerate(files):
            result = inferencer.predict(file)
            assert result.pred_score.item() == pytest.approx(float(findings.pred_score[row]), rel=1e-4)
            assert result.pred_label.item() == bool(findings.pred_label[row])
            np.testing.assert_allclose(result.anomaly_map, findings.anomaly_map[row : row + 1], atol=1e-4)
    image = np.asarray(read_image(files[-1]), np.float32).transpose(2, 0, 1)[None] / 255
    found = onnxruntime.InferenceSession(graphs[0]).run(["pred_score"], {"input": image})
    assert found[0].item() == pytest.approx(float(findings.pred_score[-1]), rel=1e-4)


@pytest.mark.slow  # as above
@pytest.mark.parametrize("name", ["diad", "ran"])
def test_anomalibs_inferencer_opens_graphs_of_the_other_methods(
    name, tiny_config, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = tiny_config(name, {"training.steps": 2, "training.batch_size": 4})
    model = module_class(name)(config, visualizer=False)
    runner = engine(tmp_path / "fit")
    runner.fit(model, datamodule=datamodule(folder))
    side = config.image_size
    file = folder / "bad" / "3.png"
    pixels = torch.from_numpy(read_image(file)).permute(2, 0, 1)[None] / 255
    image = antialiased(pixels, side)
    noise = ImageNoise(model.method.noise_shape(side, side), side)(image)
    found = model.method.detect(image, noise)
    expected = model.post_processor(InferenceBatch(pred_score=found.score, anomaly_map=found.anomaly_map))
    first = runner.export(model, export_type="onnx", export_root=tmp_path)
    monkeypatch.setattr(model, "to_onnx", lambda *_, **__: first)  # to_openvino converts it
    for path in (first, runner.export(model, export_type="openvino", export_root=tmp_path)):
        result = OpenVINOInferencer(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).predict(file)
        assert result.pred_score.item() == pytest.approx(float(expected.pred_score[0]), rel=1e-4)
        np.testing.assert_allclose(result.anomaly_map, expected.anomaly_map, rtol=0, atol=1e-3)


@pytest.mark.slow  # needs the graphs
def test_the_example_of_the_inferencer_runs(fitted, graphs, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_png(picture(np.random.default_rng(0)), Path("a.png"))
    monkeypatch.setattr(fitted[0], "to_openvino", lambda **_: graphs[1])
    names = {"model": fitted[0]}
    exec(example("inferencer"), names)
    assert names["found"].anomaly_map.shape == (1, 1, 32, 32)


def test_noise_of_a_graph_is_normal_and_follows_from_the_pixels():
    noise = ImageNoise((1, 4, 64, 64), 64)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, second = noise(images)
    assert torch.equal(noise(images[:1])[0], first)
    assert kstest(first.flatten().numpy(), "norm").pvalue > 0.01
    close = images[:1].clone()
    close[0, 1, 20, 30] = (close[0, 1, 20, 30] * 255).round() / 255 + (
        1 if close[0, 1, 20, 30] < 0.5 else -1
    ) / 255
    for other in (second, noise(close)[0]):
        assert abs(float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1])) < 0.2
        assert float((first == other).float().mean()) < 0.05


def test_images_of_any_size_are_resized_as_by_the_preprocessor(fitted):
    for size in ((32, 32), (40, 97), (20, 33), (300, 64)):
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        expected = fitted[0].pre_processor(images)
        torch.testing.assert_close(antialiased(images, 32), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"upright": "always"}, "without alignment"), ({"adaptive": True}, "adaptive search")],
)
def test_a_graph_that_anomalib_cannot_use_is_refused_in_a_sentence(
    fitted, tmp_path, monkeypatch, changes, sentence
):
    model, *_ = fitted
    monkeypatch.setattr(model.method, "config", override(model.method.config, changes))
    with pytest.raises(InputError, match=sentence):
        Engine(default_root_dir=tmp_path / "run", accelerator="cpu", logger=False).export(
            model, export_type="onnx", export_root=tmp_path / "export"
        )
    assert not list(tmp_path.rglob("*.onnx"))


def test_exported_model_predicts_alike(fitted, tmp_path, monkeypatch, folder):
    model, runner, _ = fitted
    path = runner.export(model, export_type="torch", export_root=tmp_path)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    inferencer = TorchInferencer(path, device="cpu")
    image = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    ours, theirs = model.eval()(image), inferencer.model(image)
    assert not theirs.pred_score.requires_grad
    assert torch.equal(ours.pred_score, theirs.pred_score)
    assert torch.equal(ours.anomaly_map, theirs.anomaly_map)
    result = inferencer.predict(folder / "bad" / "3.png")
    assert result.anomaly_map.shape[-2:] == (32, 32)
    assert bool(result.pred_label)


def test_scores_do_not_depend_on_the_trainers_precision(fitted, folder):
    model, runner, _ = fitted
    exact = runner.predict(model, datamodule=datamodule(folder), return_predictions=True)
    rough = engine(folder.parent / "bf16", precision="bf16-mixed").predict(
        model, datamodule=datamodule(folder), return_predictions=True
    )
    assert torch.equal(exact[0].pred_score, rough[0].pred_score)


def test_checkpoint_holds_no_code_and_gives_the_model_back(fitted):
    model, _, path = fitted
    assert torch.load(path, weights_only=True)["mendiff"]["finished"]
    for options in ({}, {"evaluator": False}):
        again = Glad.load_from_checkpoint(path, **options)
        assert again.config == model.config == replace(CONFIG, upright="never")
        assert again.calibration == model.calibration
        assert same_tensors(again.method.state_dict(), model.method.state_dict())
        assert same_tensors(again.post_processor.state_dict(), model.post_processor.state_dict())


def test_model_called_with_large_images_resizes_them_as_the_engine_does(fitted):
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    small = resize(image[0], 32)[None]
    for model in (fitted[0], Glad.load_from_checkpoint(fitted[2])):
        assert torch.equal(model.eval()(image).pred_score, model(small).pred_score)
        on_batch, _ = model.pre_processor.transform(image, None)
        torch.testing.assert_close(on_batch, small)


def test_checkpoint_of_another_config_is_an_input_error(fitted):
    network = NETWORK | {"block_out_channels": [8, 8]}
    other = replace(CONFIG, denoiser=DenoiserConfig(prediction="x0", network=network))
    with pytest.raises(InputError, match="checkpoint: expected weights of this model's config"):
        Glad.load_from_checkpoint(fitted[2], config=other)


def test_thresholds_do_not_depend_on_validation_labels(tmp_path):
    items = list(GoodImages(pictures(12), 32))
    images, thresholds = (
        GoodImages([picture(np.random.default_rng(7), defect) for defect in range(8)], 32),
        [],
    )
    for flip in (0, 1):
        labelled = [item.update(gt_label=torch.tensor(index % 2 ^ flip)) for index, item in enumerate(images)]
        model = Glad(CONFIG, visualizer=False)
        runner = engine(tmp_path / str(flip))
        runner.fit(model, train_dataloaders=loader(items), val_dataloaders=loader(labelled))
        runner.validate(model, dataloaders=loader(labelled), verbose=False)
        thresholds.append((model.post_processor.image_threshold, model.post_processor.pixel_threshold))
    assert torch.equal(torch.stack(thresholds[0]), torch.stack(thresholds[1]))
    expected = torch.tensor([model.calibration.threshold, model.calibration.pixel_threshold])
    assert torch.equal(torch.stack(thresholds[0]), expected)


def test_predictions_during_fit_are_made_where_a_metric_wants_them(folder, tmp_path):
    wanted = Evaluator(val_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="val_")])
    watched = engine(tmp_path / "a")
    watched.fit(Glad(CONFIG, evaluator=wanted), datamodule=datamodule(folder))
    assert "val_AUROC" in watched.trainer.callback_metrics
    idle, seen = Glad(CONFIG), []
    idle.model.register_forward_hook(lambda *_: seen.append(1))
    engine(tmp_path / "b").fit(idle, datamodule=datamodule(folder))
    assert not seen


def test_ran_goes_through_the_engine_like_glad(folder, tmp_path, tiny_config, monkeypatch):
    training = {"training.steps": 3, "training.batch_size": 4}
    config = tiny_config("ran", {**training, "start_timesteps": [20, 90], "gradient.dims": 6})
    model = get_model("ran", config=config)
    assert type(model) is Ran is module_class("ran")
    runner, parts = engine(tmp_path), datamodule(folder)
    runner.fit(model, datamodule=parts)
    assert model.calibration is not None
    assert not torch.equal(model.method.target_whitening.root, torch.eye(45))  # prepared before training
    (metrics,) = runner.test(model, datamodule=parts)
    assert 0 <= metrics["image_AUROC"] <= 1
    scores = [batch.pred_score for batch in runner.predict(model, datamodule=parts, return_predictions=True)]
    again = Ran.load_from_checkpoint(runner.best_model_path)
    others = [batch.pred_score for batch in runner.predict(again, datamodule=parts, return_predictions=True)]
    assert torch.equal(torch.cat(scores), torch.cat(others))
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    path = runner.export(model, export_type="torch", export_root=tmp_path / "export")
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    exported = TorchInferencer(path, device="cpu").model(image)
    assert torch.equal(model.eval()(image).anomaly_map, exported.anomaly_map)


def test_uncalibrated_scores_pass_without_labels():
    model = Glad(CONFIG).eval()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = model(image)
    assert torch.equal(found.pred_score, model.method.predict(image, content_seeds(image)).score)
    assert found.pred_label is None


def test_saved_model_scores_alike_after_load(fitted, folder, tmp_path):
    model = fitted[0]
    model.save(tmp_path / "model", {"parts": "squares"})
    loaded = mendiff.load(tmp_path / "model")
    files = sorted((folder / "bad").iterdir())
    images = torch.stack([resize(read_image(path), 32) for path in files])
    assert torch.equal(loaded.predict(files).score, model.method.predict(images, content_seeds(images)).score)
    assert loaded.calibration == model.calibration
    assert loaded.info["parts"] == "squares"
    record = fitted_of(loaded.info)
    seeds = content_seeds(torch.stack([loaded.prepare(path) for path in sorted((folder / "good").iterdir())]))
    assert record.data == fingerprint(seeds.tolist())
    assert set(record.held_back) == set(model.held_back) <= set(seeds.tolist())


def test_unfitted_model_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="expected a fitted model"):
        Glad(CONFIG).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_pretrained_parts_are_loaded_before_training(diffusion, shrunk, networks):
    model = Glad(override(PRESETS["paper"], shrunk))
    files = (str(diffusion / name) for name in ("backbone.safetensors", "prompts.safetensors"))
    lines = model.load_pretrained(str(diffusion), *files)
    assert [line.partition(":")[0] for line in lines][:2] == ["UNet", "autoencoder"]
    own = model.method.denoiser.network.state_dict()
    assert all(torch.equal(own[key], one) for key, one in networks[0].state_dict().items())


def test_textures_of_a_folder_reach_training(tmp_path):
    config = override(CONFIG, {"synthesis.share": 1.0, "crop": 16})
    (tmp_path / "dtd/striped").mkdir(parents=True)
    for number, colour in enumerate(((250, 10, 10), (10, 250, 10))):
        save_png(np.full((50, 70, 3), colour, np.uint8), tmp_path / f"dtd/striped/{number}.png")
    model, plain = Glad(config), Glad(config)
    model.use_textures(tmp_path / "dtd")
    assert len(model.method.textures) == 2
    assert model.method.textures[1].shape == (3, 32, 32)
    train(model, GoodImages(pictures(12), 32), workdir=tmp_path / "a")
    train(plain, GoodImages(pictures(12), 32), workdir=tmp_path / "b")
    assert not same_tensors(model.method.state_dict(), plain.method.state_dict())


def test_textures_are_refused_where_nothing_would_use_them(tmp_path):
    save_png(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.png")
    with pytest.raises(
        InputError, match=r"textures: expected a method that trains on synthetic anomalies, such as gl"
    ):
        Ran(preset="tiny").use_textures(tmp_path)
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(InputError, match=r"b\.png"):
        Glad(CONFIG).use_textures(tmp_path)
