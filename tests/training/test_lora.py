"""LoRA; peft is an extra, so most of this runs only where it is installed."""

import copy
from dataclasses import replace

import pytest
import torch

import mendiff
from mendiff.anomalib_models import Diad, Glad, GoodImages, train
from mendiff.errors import InputError
from mendiff.methods.base import find_preset
from mendiff.methods.config import override
from mendiff.training.lora import add_lora, merge_lora
from mendiff.training.memory import MemoryEstimator

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")
RANK = 2


@pytest.fixture
def tuned(shrunk):
    """(name) to the paper's preset at tiny size, as for fine-tuning pretrained weights."""

    def make(name):
        small = {"training.steps": 2, "training.batch_size": 4, "training.accumulate": 1, "steps": 2}
        small |= {"training.learning_rate": 1e-2, "training.lora_rank": RANK}
        small |= {"readout.top_k": 20, "readout.pool_side": 0}
        return override(find_preset(name, "paper"), {**shrunk, **small})

    return make


@pytest.fixture
def images():
    rng = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 255, (10, 32, 32, 3), dtype=torch.uint8, generator=rng)
    return GoodImages(list(pictures.numpy()), 32)


def test_networks_that_start_from_random_weights_are_refused(tiny_config):
    for name in ("glad", "diad", "ran"):
        with pytest.raises(InputError, match=r"training.lora_rank: expected 0 .* from scratch"):
            tiny_config(name, {"training.lora_rank": 4})


@pytest.mark.parametrize("kind", [Glad, Diad])
def test_additions_change_nothing_at_first_and_merge_away(kind, tuned, pictures, global_rng_untouched):
    pytest.importorskip("peft")
    method = kind(tuned(kind._method_name)).method.eval()
    seeds = torch.arange(4)
    keys, plain = list(method.state_dict()), method.predict(pictures, seeds)
    before = {name for name, one in method.named_parameters() if one.requires_grad}
    with global_rng_untouched():
        add_lora(method, RANK, seed=0)
    assert torch.equal(method.predict(pictures, seeds).anomaly_map, plain.anomaly_map)
    added = {name: one for name, one in method.named_parameters() if "lora_" in name}
    trained = {name for name, one in method.named_parameters() if one.requires_grad}
    assert set(added) <= trained
    assert trained - set(added) < before  # DiAD's outputs of the SG network; nothing of GLAD's
    with torch.no_grad():
        for one in added.values():
            one += 0.05
    with_additions = method.predict(pictures, seeds)
    assert not torch.equal(with_additions.anomaly_map, plain.anomaly_map)
    merge_lora(method)
    assert list(method.state_dict()) == keys
    merged = method.predict(pictures, seeds).anomaly_map
    torch.testing.assert_close(merged, with_additions.anomaly_map, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [Glad, Diad])
def test_fitted_with_lora_is_saved_as_a_plain_model(kind, tuned, images, tmp_path):
    pytest.importorskip("peft")
    module = kind(tuned(kind._method_name))
    before = copy.deepcopy(module.method.state_dict())
    train(module, images, workdir=tmp_path / "work")
    module.save(tmp_path / "model")
    loaded = mendiff.load(tmp_path / "model")
    after = loaded.method.state_dict()
    assert after.keys() == before.keys()
    network = "denoiser.network." if kind is Glad else "denoiser.unet.network."
    changed = [key for key in after if key.startswith(network) and not torch.equal(after[key], before[key])]
    assert changed
    weights = [after[key] - before[key] for key in changed if after[key].ndim == 2]
    assert weights
    for change in weights:
        assert int(torch.linalg.matrix_rank(change.double(), rtol=1e-3)) <= RANK
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(loaded.predict(picture).score).all()
    theirs = module.method.eval().predict(picture[None], mendiff.model.content_seeds(picture[None]))
    torch.testing.assert_close(loaded.predict(picture).anomaly_map, theirs.anomaly_map, rtol=1e-2, atol=1e-3)


def test_training_with_lora_goes_on_from_its_checkpoint(tuned, images, tmp_path):
    pytest.importorskip("peft")
    config = tuned("glad")
    unbroken, broken, resumed = (Glad(config) for _ in range(3))
    for module in (unbroken, broken, resumed):
        module.calibrates = False
        module.load_state_dict(unbroken.state_dict())
    train(unbroken, images, workdir=tmp_path / "a")

    def stop(step, total, loss):
        if step == 1:
            broken.trainer.save_checkpoint(tmp_path / "b/last.ckpt")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, images, workdir=tmp_path / "b", progress=stop)
    train(resumed, images, workdir=tmp_path / "b", resume=True)
    for key, one in unbroken.method.state_dict().items():
        assert torch.equal(resumed.method.state_dict()[key], one), key


def test_planned_memory_with_lora_is_less(tuned):
    pytest.importorskip("peft")
    config = tuned("glad")
    plain = replace(config, training=replace(config.training, lora_rank=0))
    with_lora, without = (
        MemoryEstimator("glad", one).training(one.training, half=False) for one in (config, plain)
    )
    assert with_lora.gradients + with_lora.optimizer < without.gradients + without.optimizer
