"""Glad as an anomalib model, and the training that the command line runs."""

import math
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageBatch
from anomalib.deploy import TorchInferencer
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.models import get_model
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback
from safetensors.torch import save_file
from torch.utils.data import DataLoader

import mendiff
from mendiff.anomalib_models import (
    Glad,
    GoodImages,
    GoodOnlyPostProcessor,
    Ran,
    module_class,
    quiet,
    train,
    training,
)
from mendiff.calibration import Calibration
from mendiff.checkpoints.bundled import resolved
from mendiff.checkpoints.files import fingerprint
from mendiff.checkpoints.provenance import fitted_of
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError
from mendiff.images import read_image, resize, save_png
from mendiff.methods.base import TrainingConfig
from mendiff.methods.config import override
from mendiff.methods.glad_config import PRESETS
from mendiff.nets.denoiser import DenoiserConfig
from mendiff.nets.features import FeaturesConfig
from mendiff.training.optimizers import fast_precision, learning_rate
from mendiff.training.split import choose

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")

NETWORK = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "norm_num_groups": 4,
    "add_attention": False,
}
CONFIG = replace(
    PRESETS["tiny"],
    image_size=32,
    crop=0,
    training=TrainingConfig(steps=4, batch_size=4, learning_rate=1e-3, warmup=2, cosine=True, ema=0.9),
    denoiser=DenoiserConfig(prediction="x0", network=NETWORK),
    features=FeaturesConfig(),
)


class StopHere(Exception):  # noqa: N818 - it is no error
    """Stands for whatever kills a run."""


def picture(rng, defect=0):
    image = np.full((32, 32, 3), 120, np.uint8) + rng.integers(0, 20, (32, 32, 3), dtype=np.uint8)
    image[8:16, 8 : 8 + defect] = 255
    return image


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [picture(rng) for _ in range(count)]


def engine(root, *callbacks, **options):
    return Engine(
        default_root_dir=root,
        callbacks=list(callbacks),
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def loader(images, **options):
    return DataLoader(images, batch_size=4, collate_fn=ImageBatch.collate, **options)


def same_tensors(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key].nan_to_num(-7), second[key].nan_to_num(-7)) for key in first
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(1)
    for name, count in (("good", 12), ("good_test", 4), ("bad", 4), ("mask", 4)):
        (root / name).mkdir()
        for index in range(count):
            image = picture(rng, defect=4 + 4 * index if name == "bad" else 0)
            if name == "mask":
                image = np.zeros((32, 32), bool)
                image[8:16, 8 : 12 + 4 * index] = True
            save_png(image, root / name / f"{index}.png")
    return root


def datamodule(root, **options):
    defaults = {
        "name": "parts",
        "root": root,
        "normal_dir": "good",
        "abnormal_dir": "bad",
        "normal_test_dir": "good_test",
        "mask_dir": "mask",
        "train_batch_size": 4,
        "eval_batch_size": 3,
        "num_workers": 0,
        "seed": 0,
    }
    return Folder(**(defaults | options))


@pytest.fixture(scope="module")
def fitted(folder, tmp_path_factory):
    model = Glad(CONFIG)
    runner = engine(tmp_path_factory.mktemp("results"))
    runner.fit(model, datamodule=datamodule(folder))
    return model, runner, Path(runner.best_model_path)


# Construction.


def test_initial_weights_follow_the_seed_and_global_generator_stays():
    before = torch.get_rng_state()
    first, again, other = Glad(CONFIG, seed=3), Glad(CONFIG, seed=3), Glad(CONFIG, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert same_tensors(first.method.state_dict(), again.method.state_dict())
    assert not same_tensors(first.method.state_dict(), other.method.state_dict())


def test_images_own_size_becomes_256():
    assert PRESETS["tiny"].image_size == 0
    model = Glad(preset="tiny")
    assert model.config == replace(resolved(PRESETS["tiny"]), image_size=256)
    assert model.pre_processor.transform.size == [256, 256]


@pytest.mark.parametrize("name", ["glad", "Glad"])
def test_get_model_finds_it_by_name(name):
    model = get_model(name, config=CONFIG)
    assert type(model) is Glad
    assert model.config == CONFIG


def test_module_class_is_the_methods_own_where_it_has_one():
    assert module_class("glad") is Glad
    with pytest.raises(InputError, match="method: expected one of"):
        module_class("nonesuch")


def test_unknown_preset_and_foreign_config_are_input_errors():
    with pytest.raises(InputError, match="preset: expected one of"):
        Glad(preset="huge")
    with pytest.raises(InputError, match="expected a GladConfig, got a TrainingConfig"):
        Glad(config=TrainingConfig())


def test_features_weights_are_loaded_from_a_local_file(tmp_path):
    config = replace(CONFIG, features=FeaturesConfig("mobilenetv2_050", layers=("stage1",)))
    weights = {key: value + 0.5 for key, value in Glad(config).method.features.backbone.state_dict().items()}
    save_file(weights, tmp_path / "backbone.safetensors")
    model = Glad(config, features_weights=str(tmp_path / "backbone.safetensors"))
    loaded = model.method.features.backbone.state_dict()
    assert all(torch.equal(loaded[key], weights[key].to(loaded[key])) for key in loaded)
    with pytest.raises(InputError, match=r"expected a config whose features\.name"):
        Glad(CONFIG, features_weights=str(tmp_path / "backbone.safetensors"))


# Through anomalib's Engine.


def test_engine_trains_as_long_as_the_config_says(fitted):
    model, runner, _ = fitted
    assert runner.trainer.global_step == CONFIG.training.steps
    assert len(model.calibration.scores) == 4


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


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_an_export_that_does_not_exist_yet_is_refused_in_a_sentence(fitted, tmp_path, kind):
    model, *_ = fitted
    runner = Engine(default_root_dir=tmp_path / "run", accelerator="cpu", logger=False)
    with pytest.raises(
        InputError, match=r"got .*, which is not supported yet: .*; export with ExportType.TORCH"
    ):
        runner.export(model, export_type=kind, export_root=tmp_path / "export")
    assert not list((tmp_path / "export").rglob("*.*"))


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
    with pytest.raises(InputError, match="checkpoint: expected one of this model's config"):
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


DEEPER = {
    **NETWORK,
    "block_out_channels": [8, 8, 16],
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Glad, {"denoiser.network": NETWORK, "adaptive": "false", "synthesis.grid": 4}),
        (Ran, {"denoiser.network": DEEPER, "codec.factor": 4, "noise_steps": [20], "gradient.dims": 6}),
    ],
)
def test_anomalib_command_line_trains_it(kind, changes, folder, tmp_path):
    arguments = ["train", "--model", f"mendiff.{kind.__name__}", "--data", "Folder", "--data.name", "parts"]
    arguments += ["--data.root", str(folder), "--data.normal_dir", "good", "--data.abnormal_dir", "bad"]
    arguments += ["--data.normal_test_dir", "good_test", "--data.mask_dir", "mask", "--data.num_workers", "0"]
    arguments += ["--trainer.accelerator", "cpu", "--default_root_dir", str(tmp_path)]
    small = {"image_size": 32, "training.steps": 2, "codec.kind": "space_to_depth"}
    for name, value in {**small, **changes}.items():
        arguments += [f"--model.config.{name}", str(value)]
    code = "from anomalib.cli.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.rglob("v0/weights/lightning/model.ckpt")
    assert kind.load_from_checkpoint(path).calibration is not None


def test_ran_goes_through_the_engine_like_glad(folder, tmp_path, tiny_config, monkeypatch):
    training = {"training.steps": 3, "training.batch_size": 4}
    config = tiny_config("ran", {**training, "noise_steps": [20, 90], "gradient.dims": 6})
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


# Training.


def recorded(model):
    """The content seeds of all images that reach the method's loss from now on."""
    seeds, loss = [], model.method.training_loss

    def training_loss(image, rng):
        seeds.extend(content_seeds(image).tolist())
        return loss(image, rng)

    model.method.training_loss = training_loss
    return seeds


def test_held_back_images_never_reach_the_loss_through_a_datamodule(folder, tmp_path):
    model = Glad(replace(CONFIG, training=replace(CONFIG.training, steps=6)))
    seen = recorded(model)
    engine(tmp_path).fit(model, datamodule=datamodule(folder))
    assert len(model.held_back) == 4
    assert len(set(seen)) == 8
    assert not set(seen) & set(model.held_back)


def test_held_back_images_are_known_by_content_where_files_have_no_name(tmp_path):
    images = GoodImages(pictures(12), 32)
    items = [images[index].update(image_path=None) for index in range(12)]
    model = Glad(CONFIG, visualizer=False)
    seen = recorded(model)
    engine(tmp_path).fit(model, train_dataloaders=loader(items, shuffle=True))
    assert len(seen) > 4
    assert not set(seen) & set(model.held_back)


def test_held_back_images_do_not_depend_on_order_or_seed():
    images = pictures(40)
    first, second = Glad(CONFIG), Glad(CONFIG, seed=9)
    first.hold_back(GoodImages(images, 32).identities)
    second.hold_back(GoodImages(images[::-1], 32).identities)
    assert first.held_back == second.held_back
    assert len(first.held_back) == 6


@pytest.mark.parametrize(
    ("count", "kept"), [(2, 1), (3, 1), (4, 2), (5, 2), (7, 3), (8, 4), (27, 4), (100, 15), (1000, 64)]
)
def test_number_of_held_back_images(count, kept):
    assert len(choose(range(count))) == kept


def test_too_few_different_images_are_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"expected at least 2 different good ones, .* got 1"):
        train(Glad(CONFIG), GoodImages(pictures(1) + pictures(1), 32), workdir=tmp_path)


def test_a_fit_to_images_that_were_all_held_back_before_leaves_some_to_train_on():
    model, images = Glad(CONFIG), GoodImages(pictures(8), 32)
    model.hold_back(images.identities)
    kept = [pair for pair in images.identities if pair[0] in model.held_back]
    model.hold_back(kept)
    assert len(model.held_back) == 2


def test_batch_of_held_back_images_alone_is_a_step_that_changes_nothing(tmp_path):
    model = Glad(replace(CONFIG, training=replace(CONFIG.training, ema=0.0)), visualizer=False)
    images = GoodImages(pictures(8), 32)
    model.hold_back(images.identities)
    items = sorted(images, key=lambda item: int(content_seeds(item.image[None])))
    before = {name: one.detach().clone() for name, one in model.method.named_parameters()}
    runner = engine(tmp_path, max_steps=1)
    runner.fit(model, train_dataloaders=loader(items))
    assert runner.trainer.global_step == 1
    assert same_tensors(before, dict(model.method.named_parameters()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_training_equals_an_unbroken_one(tmp_path, monkeypatch, accumulate):
    config = replace(CONFIG, training=replace(CONFIG.training, batch_size=4, accumulate=accumulate))

    def die(step, total, loss):
        assert total == 4
        assert math.isfinite(loss)
        if step == 2:
            raise StopHere

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    unbroken, broken, resumed = Glad(config), Glad(config), Glad(config)
    before, steps = torch.get_rng_state(), []
    train(unbroken, GoodImages(pictures(12), 32), workdir=tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(StopHere):
        train(broken, GoodImages(pictures(12), 32), workdir=tmp_path / "b", progress=die)
    train(
        resumed,
        GoodImages(pictures(12), 32),
        workdir=tmp_path / "b",
        resume=True,
        progress=lambda step, *_: steps.append(step),
    )
    assert steps == [3, 4]
    assert broken.calibration is None
    assert resumed.calibration == unbroken.calibration
    assert same_tensors(resumed.state_dict(), unbroken.state_dict())
    train(resumed, GoodImages(pictures(12), 32), workdir=tmp_path / "b", resume=True)  # nothing is left to do
    assert same_tensors(resumed.state_dict(), unbroken.state_dict())


def test_parts_of_a_step_together_are_its_batch():
    whole = replace(CONFIG, training=replace(CONFIG.training, batch_size=6))
    parted = replace(whole, training=replace(whole.training, accumulate=3))
    groups = [list(range(7)), list(range(7, 9))]

    batches, parts = [], []
    for config, order in ((whole, batches), (parted, parts)):
        module = Glad(config)
        module.trainer = SimpleNamespace(world_size=1, global_rank=0, global_step=0)
        order.extend(training._StepOrder(module, groups))

    assert [len(part) for part in parts] == [2] * (3 * len(batches))
    assert [[*chain(*parts[at : at + 3])] for at in range(0, len(parts), 3)] == batches


def test_checkpointed_activations_give_the_same_gradients(streams):
    plan = replace(CONFIG.training, checkpointing=True)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for config in (CONFIG, replace(CONFIG, training=plan)):
        method = Glad(config).method.train()
        method.training_loss(image, streams(2)).backward()
        gradients.append({name: one.grad for name, one in method.named_parameters() if one.requires_grad})

    assert method.denoiser.network.is_gradient_checkpointing
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_finished_training_goes_on_from_unaveraged_weights(tmp_path):
    items = loader(list(GoodImages(pictures(8), 32)))  # two batches per epoch, always in this order
    unbroken, first, second, third = (Glad(CONFIG, visualizer=False) for _ in range(4))
    engine(tmp_path / "a").fit(unbroken, train_dataloaders=items)
    half = engine(tmp_path / "b", max_steps=2)
    half.fit(first, train_dataloaders=items)
    assert first.calibration is not None
    rest = engine(tmp_path / "c")
    rest.fit(second, train_dataloaders=items, ckpt_path=half.best_model_path)
    engine(tmp_path / "d").fit(third, train_dataloaders=items, ckpt_path=rest.best_model_path)
    assert torch.load(rest.best_model_path, weights_only=True)["mendiff"]["finished"]
    for resumed in (second, third):  # the third had nothing left to do
        assert resumed.calibration == unbroken.calibration
        assert same_tensors(resumed.state_dict(), unbroken.state_dict())


def test_interrupt_from_the_keyboard_stays_one(tmp_path):
    def interrupt(step, total, loss):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(Glad(CONFIG), GoodImages(pictures(8), 32), workdir=tmp_path, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, handler)


def test_without_resume_training_starts_anew(tmp_path):
    first, second, steps = Glad(CONFIG), Glad(CONFIG), []
    train(first, GoodImages(pictures(8), 32), workdir=tmp_path)
    train(second, GoodImages(pictures(8), 32), workdir=tmp_path, progress=lambda step, *_: steps.append(step))
    assert steps == [1, 2, 3, 4]
    assert second.calibration == first.calibration


def test_averaged_weights_become_the_models(tmp_path):
    plain = replace(CONFIG, training=replace(CONFIG.training, ema=0.0))
    averaged, last = Glad(CONFIG), Glad(plain)
    track = [{name: one.detach().clone() for name, one in last.method.named_parameters()}]

    def follow(step, total, loss):
        track.append({name: one.detach().clone() for name, one in last.method.named_parameters()})

    train(averaged, GoodImages(pictures(12), 32), workdir=tmp_path / "a")
    train(last, GoodImages(pictures(12), 32), workdir=tmp_path / "b", progress=follow)
    expected = track[0]
    for step, weights in enumerate(track[1:]):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * weights[name] for name in expected}
    for name, one in averaged.method.named_parameters():
        torch.testing.assert_close(one.detach(), expected[name])


@pytest.mark.parametrize(("given_value", "limit"), [(None, 1e-3), (1e-4, 1e-4)])
def test_gradients_are_clipped_by_the_config_unless_the_engine_says_so(tmp_path, given_value, limit):
    norms = []

    class Look(Callback):
        def on_before_zero_grad(self, trainer, module, optimizer):
            gradients = [one.grad for group in optimizer.param_groups for one in group["params"]]
            if gradients[0] is not None:
                norms.append(float(torch.stack([one.norm() for one in gradients]).norm()))

    model = Glad(replace(CONFIG, training=replace(CONFIG.training, clip=1e-3)), visualizer=False)
    runner = engine(tmp_path, Look(), gradient_clip_val=given_value)
    runner.fit(model, train_dataloaders=loader(list(GoodImages(pictures(12), 32))))
    assert norms == pytest.approx([limit] * len(norms), rel=1e-2)
    assert norms


def test_learning_rate_rises_and_falls_to_zero():
    plan = TrainingConfig(steps=100, warmup=10, cosine=True)
    assert learning_rate(plan, 0) == pytest.approx(0.1)
    assert learning_rate(plan, 50) == pytest.approx(0.5)
    assert learning_rate(plan, 100) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(TrainingConfig(steps=100), 99) == 1.0


def test_every_image_is_seen_equally_often(tmp_path):
    model = Glad(replace(CONFIG, training=replace(CONFIG.training, steps=6)))
    seen = recorded(model)
    train(model, GoodImages(pictures(12), 32), workdir=tmp_path)
    assert sorted(seen.count(seed) for seed in set(seen)) == [3] * 8


def test_quiet_training_says_nothing(tmp_path, capfd):
    quiet()
    train(Glad(CONFIG), GoodImages(pictures(8), 32), workdir=tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["_is_amx_tile_supported", "_is_cpu_support_amx_tile"])
def test_precision_follows_what_the_processor_multiplies_fast(monkeypatch, name):
    for known in ("_is_amx_tile_supported", "_is_cpu_support_amx_tile"):
        monkeypatch.delattr(torch.cpu, known, raising=False)
    assert fast_precision("cpu") == "32-true"
    monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    assert fast_precision("cpu") == "bf16-mixed"
    assert fast_precision("mps") == "32-true"
    for major, expected in ((7, "32-true"), (8, "bf16-mixed")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, major=major: (major, 0))
        assert fast_precision("cuda:1") == expected


# Images.


@pytest.mark.parametrize("room", [0, 2**20])
def test_kept_images_equal_read_ones(tmp_path, room):
    large = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    save_png(large, tmp_path / "large.png")
    images = GoodImages([tmp_path / "large.png", *pictures(1)], 32, room)
    for _ in range(2):
        assert torch.equal(images[0].image, resize(large, 32))
        assert torch.equal(images[1].image, resize(pictures(1)[0], 32))
    assert images[0].image_path == str(tmp_path / "large.png")


# Scores.


def post_processor(scores):
    made = GoodOnlyPostProcessor()
    made.calibrate(Calibration(tuple(scores), tuple(scores)))
    return made


def normalise(made, scores):
    return made._normalize(torch.as_tensor(scores), made.image_min, made.image_max, made.image_threshold)


@given(
    good=st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=20),
    scores=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20),
)
def test_normalised_scores_keep_their_order_inside_the_unit_interval(good, scores):
    made = post_processor(good)
    raw = torch.tensor(scores).sort().values
    flat = normalise(made, raw)
    assert ((flat > 0) & (flat < 1)).all()
    assert (flat.diff() >= 0).all()
    assert torch.equal(flat > 0.5, raw > made.image_threshold) or bool((flat == 0.5).any())
    assert float(normalise(made, made.image_threshold)) == 0.5


@pytest.mark.parametrize("good", [[1.0, 1.1, 1.3, 1.2], [-3.0, -2.0, -2.5, -2.4], [5.0, 5.0]])
def test_scores_far_from_the_threshold_do_not_tie(good):
    made = post_processor(good)
    scale = (made.image_max - made.image_min) / 2
    steps = torch.logspace(-2, 6, 4000, dtype=torch.float64)  # each 0.5 % further out
    for side in (1, -1):
        raw = (made.image_threshold + side * scale * steps).float()
        assert (normalise(made, raw).diff() * side > 0)[raw.diff() != 0].all()


def test_uncalibrated_scores_pass_without_labels():
    model = Glad(CONFIG).eval()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = model(image)
    assert torch.equal(found.pred_score, model.method.predict(image, content_seeds(image)).score)
    assert found.pred_label is None


# Storage.


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
    with pytest.raises(InputError, match="expected a fitted one to save"):
        Glad(CONFIG).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_pretrained_parts_are_loaded_before_training(diffusion, shrunk, networks):
    model = Glad(override(PRESETS["paper"], shrunk))
    files = (str(diffusion / name) for name in ("backbone.safetensors", "prompts.safetensors"))
    lines = model.load_pretrained(str(diffusion), *files)
    assert [line.partition(":")[0] for line in lines][:2] == ["UNet", "autoencoder"]
    own = model.method.denoiser.network.state_dict()
    assert all(torch.equal(own[key], one) for key, one in networks[0].state_dict().items())


# Textures.


def test_textures_of_a_folder_reach_training(tmp_path):
    config = override(CONFIG, {"synthesis.share": 1.0, "synthesis.max_blend": 0.0, "crop": 16})
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
        InputError, match=r"textures: expected a method that trains on synthetic anomalies \(gl"
    ):
        Ran(preset="tiny").use_textures(tmp_path)
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(InputError, match=r"b\.png"):
        Glad(CONFIG).use_textures(tmp_path)
