import copy

import pytest
import torch
from torch import nn

from mendiff.anomalib_models.optimizers import Muon, make_optimizer, orthogonalised
from mendiff.errors import InputError
from mendiff.methods.base import TrainingConfig


@pytest.mark.parametrize("shape", [(3, 48, 432), (2, 96, 50), (1, 64, 64)])
def test_directions_keep_singular_vectors_and_bring_singular_values_near_one(shape, rng):
    matrices = torch.randn(shape, generator=rng, dtype=torch.float64)
    got = orthogonalised(matrices)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.diagonal(left.mT @ got @ right.mT, dim1=1, dim2=2)
    off = left.mT @ got @ right.mT - torch.diag_embed(values)
    assert float(off.abs().max()) < 1e-6
    assert float(values.max()) < 1.3
    assert float(values.median()) > 0.6


def test_the_short_way_over_the_gram_matrix_is_the_iteration_itself(rng):
    x = torch.randn(1, 20, 60, generator=rng, dtype=torch.float64)
    expected = x / x.norm()
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * gram @ gram) @ expected
    torch.testing.assert_close(orthogonalised(x), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_matrices_move_as_with_torchs_muon(rng):
    ours = nn.Parameter(torch.randn(64, 20, 2, 2, generator=rng))
    theirs = nn.Parameter(ours.detach().flatten(1).clone())
    options = {"momentum": 0.95, "nesterov": True, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = (
        Muon({"hidden": ours}, lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, **options),
    )
    for _ in range(4):
        gradient = torch.randn(64, 80, generator=rng)
        before = ours.detach().clone()
        for one, optimizer in zip((ours, theirs), optimizers, strict=True):
            one.grad = gradient.clone().view_as(one)
            optimizer.step()
        # torch iterates in bfloat16.
        apart = (ours.flatten(1) - theirs).norm() / (ours - before).norm()
        assert float(apart.detach()) < 0.1


def test_all_but_weights_of_hidden_convolutions_move_as_with_adamw(rng):
    layers = nn.ModuleDict(
        {
            "thin": nn.Conv2d(3, 64, 3),
            "norm": nn.GroupNorm(8, 64),
            "hidden": nn.Conv2d(64, 64, 3),
            "linear": nn.Linear(64, 64),
            "conv_out": nn.Conv2d(64, 64, 3),
        }
    )
    reference = copy.deepcopy(layers)
    ours = Muon(dict(layers.named_parameters()), lr=1e-2, weight_decay=0.1)
    theirs = torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        for one, other in zip(layers.parameters(), reference.parameters(), strict=True):
            one.grad = other.grad = torch.randn(one.shape, generator=rng)
        ours.step()
        theirs.step()
    pairs = dict(zip(layers.state_dict().items(), reference.state_dict().values(), strict=True))
    differing = [name for (name, one), other in pairs.items() if not torch.allclose(one, other)]
    assert differing == ["hidden.weight"]


def test_a_restored_optimizer_goes_on_alike(rng):
    def layer():
        torch.manual_seed(0)
        return nn.Conv2d(64, 64, 3)

    gradients = [[torch.randn(s, generator=rng) for s in ((64, 64, 3, 3), (64,))] for _ in range(4)]

    def walk(module, optimizer, some):
        for step in some:
            for one, gradient in zip(module.parameters(), step, strict=True):
                one.grad = gradient
            optimizer.step()

    with torch.random.fork_rng(devices=[]):
        unbroken, broken = layer(), layer()
    first = Muon(dict(unbroken.named_parameters()), lr=1e-2, weight_decay=0.0)
    walk(unbroken, first, gradients)
    second = Muon(dict(broken.named_parameters()), lr=1e-2, weight_decay=0.0)
    walk(broken, second, gradients[:2])
    third = Muon(dict(broken.named_parameters()), lr=1e-2, weight_decay=0.0)
    third.load_state_dict(copy.deepcopy(second.state_dict()))
    walk(broken, third, gradients[2:])
    for one, other in zip(unbroken.parameters(), broken.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_config_names_the_optimizer():
    named = {"weight": nn.Parameter(torch.zeros(64, 64, 1, 1))}
    for name, kind in (("adamw", torch.optim.AdamW), ("muon", Muon)):
        optimizer = make_optimizer(TrainingConfig(optimizer=name), named)
        assert type(optimizer) is kind
        assert optimizer.param_groups[0]["lr"] == TrainingConfig().learning_rate
    with pytest.raises(InputError, match=r"training.optimizer: expected one of adamw, muon, got 'sgd'"):
        TrainingConfig(optimizer="sgd")
