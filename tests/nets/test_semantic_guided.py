import pytest
import torch

from mendiff.diffusion.schedule import make_schedule
from mendiff.errors import InputError
from mendiff.nets.denoiser import DenoiserConfig, conditional_unet
from mendiff.nets.semantic_guided import GuideConfig, GuidedDenoiser, SpatialFusion

SMALL = {**conditional_unet(8, 16, 24), "layers_per_block": 2}
X_T, T = torch.ones(2, 4, 16, 16).cumsum(3) / 8 - 1, torch.tensor([3, 700])
HINT = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def denoiser(guide, network=SMALL, factor=2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DenoiserConfig("conditional_unet", "eps", network, prompt_length=1)
        return GuidedDenoiser(config, guide, make_schedule("scaled_linear"), 4, factor)


def train(model, steps=3):
    """A few steps towards nothing in particular."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model.raw(X_T, T, model.embed(HINT)).sub(0.5).square().mean().backward()
        optimizer.step()


def moved(guide):
    """Which weights of the fusion and of the convolutions before it a short training moves."""
    model = denoiser(guide)
    parts = model.guide.fusion, model.guide.network.controlnet_down_blocks[3:6]  # of the last level but one
    before = [{name: one.detach().clone() for name, one in part.named_parameters()} for part in parts]
    train(model)
    return [
        {name for name, one in part.named_parameters() if (one - was[name]).abs().max() > 2e-5}
        for part, was in zip(parts, before, strict=True)
    ]


def test_fusion_learns_with_its_own_initial_weights():
    fusion, sources = moved(GuideConfig())
    assert fusion == {f"branches.{at}.{to}.0.weight" for at in range(3) for to in range(3)}
    assert {"0.weight", "1.weight", "2.weight"} <= sources


def test_untrained_sg_network_leaves_the_denoiser_as_it_is():
    model = denoiser(GuideConfig())
    with torch.no_grad():
        steered = model.raw(X_T, T, model.embed(HINT))
        plain = model.unet.raw(X_T, T)
    torch.testing.assert_close(steered, plain)


def test_sg_network_starts_as_a_copy_of_the_encoder():
    model = denoiser(GuideConfig())
    for part in ("conv_in", "time_embedding", "down_blocks", "mid_block"):
        ours = getattr(model.guide.network, part).state_dict()
        theirs = getattr(model.unet.network, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("guide", "wired"),
    [
        (GuideConfig(), {6, 7, 8}),
        (GuideConfig(skips=(2,), fusion="none"), {3, 4, 5}),
        (GuideConfig(skips=(1, 2, 3)), set(range(9))),
        (GuideConfig(middle_alone=True), set()),
    ],
)
def test_skips_name_the_levels_that_are_added(guide, wired):
    model = denoiser(guide)
    train(model, 1)
    with torch.no_grad():
        down, middle = model.guide(X_T, T, model.embed(HINT), torch.zeros(2, 1, 8))
    assert {number for number, one in enumerate(down) if one.ndim} == wired
    assert bool(middle.any())


def test_hint_reaches_the_estimate_after_training_only_through_the_guide():
    model = denoiser(GuideConfig())
    train(model)
    with torch.no_grad():
        one, other = (model.raw(X_T, T, model.embed(hint)) for hint in (HINT, -HINT))
    assert float((one - other).abs().max()) > 1e-6
    with torch.no_grad():
        alone = denoiser(None)
        assert alone.embed(HINT) is None
        assert torch.equal(alone.raw(X_T, T, None), alone.unet.raw(X_T, T))


def test_fusion_adds_every_finer_output_to_every_last_one():
    torch.manual_seed(0)
    fusion = SpatialFusion([2, 3], [4, 5], "in_silu")
    finer = [torch.randn(2, 2, 8, 8), torch.randn(2, 3, 8, 8)]
    last = [torch.randn(2, 4, 4, 4), torch.randn(2, 5, 4, 4)]
    for to, found in enumerate(fusion(finer, last)):
        total = last[to].clone()
        for at, source in enumerate(finer):
            moved = torch.nn.functional.conv2d(source, fusion.branches[at][to][0].weight, stride=2, padding=1)
            mean = moved.mean((2, 3), keepdim=True)
            deviation = (moved.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
            total += torch.nn.functional.silu((moved - mean) / deviation)
        torch.testing.assert_close(found, torch.nn.functional.silu(total))


def test_batch_norm_is_the_ablation():
    branch = SpatialFusion([2], [4], "bn_relu").branches[0][0]
    assert [type(one).__name__ for one in branch] == ["Conv2d", "BatchNorm2d", "ReLU"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GuideConfig(fusion="ln"), "fusion: expected one of in_silu, bn_relu, none, got 'ln'."),
        (lambda: GuideConfig(initial_outputs="one"), "initial_outputs: expected one of normal, zero"),
        (
            lambda: denoiser(GuideConfig(skips=(4,))),
            "skips: expected levels 1 to 3 of the SG network, got [4].",
        ),
        (lambda: denoiser(GuideConfig(), factor=3), "codec: expected a factor of 1, 2, 4 or 8"),
        (
            lambda: denoiser(GuideConfig({"conditioning_embedding_out_channels": [16, 32, 64]})),
            "conditioning_embedding_out_channels: expected 2 widths for a codec of factor 2",
        ),
        (
            lambda: denoiser(GuideConfig(), conditional_unet(8)),
            "fusion: expected an SG network of two levels at least, got 1.",
        ),
    ],
)
def test_what_cannot_be_built_is_said_in_one_sentence(make, sentence):
    with pytest.raises(InputError) as error:
        make()
    assert sentence in str(error.value)


def test_lowest_level_of_one_position_is_refused():
    model = denoiser(GuideConfig())
    with pytest.raises(InputError, match="at least 2 positions at the SG network's lowest level"):
        model.raw(torch.zeros(1, 4, 4, 4), T[:1], model.embed(torch.zeros(1, 3, 8, 8)))
