"""Training through Lightning, as the command line runs it."""

import math
import signal
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback

from mendiff.anomalib_models import Glad, GoodImages, quiet, train, training
from mendiff.diffusion.random import content_seeds
from tests.parts import CONFIG, engine, loader, pictures, recorded, same_tensors

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


class StopHere(Exception):  # noqa: N818 - it is no error
    """Stands for whatever kills a run."""


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


def test_every_image_is_seen_equally_often(tmp_path):
    model = Glad(replace(CONFIG, training=replace(CONFIG.training, steps=6)))
    seen = recorded(model)
    train(model, GoodImages(pictures(12), 32), workdir=tmp_path)
    assert sorted(seen.count(seed) for seed in set(seen)) == [3] * 8


def test_quiet_training_says_nothing(tmp_path, capfd):
    quiet()
    train(Glad(CONFIG), GoodImages(pictures(8), 32), workdir=tmp_path)
    assert capfd.readouterr() == ("", "")
