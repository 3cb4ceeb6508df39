import pytest
import torch

from mendiff.errors import InputError
from mendiff.nets.features import FeaturesConfig, make_features
from mendiff.nets.student import STAGES, Student, StudentConfig, StudentFeatures


@pytest.fixture
def trained(rng):
    """A student as training leaves it: batch norms that are far from the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = Student(StudentConfig((4, 6, 8, 10), (1, 2, 1), (6, 7, 8), (5, 6, 7)), folded=False)
        for module in student.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                torch.nn.init.uniform_(module.weight, 0.5, 2)
                torch.nn.init.normal_(module.bias)
    return student.eval()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (37, 50), (16, 16), (3, 5)])
def test_maps_have_a_position_per_stride_for_any_size(height, width):
    found = Student(StudentConfig())(torch.zeros(2, 3, height, width))
    expected = [
        (2, channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip((24, 32, 96), (4, 8, 16), strict=True)
    ]
    assert [tuple(one.shape) for one in found] == expected


def test_folded_student_is_the_trained_one_without_norms(trained, rng):
    image = torch.randn(2, 3, 48, 64, generator=rng)
    plain = trained.folded()
    assert not [one for one in plain.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for ours, theirs in zip(plain(image), trained(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_shift_by_a_coarse_position_shifts_all_maps(trained, rng):
    image = torch.randn(1, 3, 160, 160, generator=rng)
    moved = torch.roll(image, (16, 16), (2, 3))
    for stride, ours, theirs in zip((4, 8, 16), trained(image), trained(moved), strict=True):
        inner = slice(64 // stride, 96 // stride)
        back = torch.roll(theirs, (-16 // stride, -16 // stride), (2, 3))
        torch.testing.assert_close(ours[..., inner, inner], back[..., inner, inner], rtol=1e-4, atol=1e-4)


def test_shipped_size_is_within_bounds():
    weights = Student(StudentConfig()).state_dict().values()
    assert sum(one.numel() for one in weights) < 1_000_000
    assert sum(one.half().nbytes for one in weights) < 3_000_000


def test_first_stages_do_not_depend_on_how_many_are_asked_for(trained, rng):
    image = torch.randn(1, 3, 32, 32, generator=rng)
    few, all_three = trained(image, 2), trained(image)
    assert len(few) == 2
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(few, all_three, strict=False))


@pytest.mark.parametrize("name", ["auto", "bundled"])
def test_features_by_name_give_the_layers_in_their_order(name):
    features = make_features(FeaturesConfig(name, layers=("stage3", "stage1")))
    assert isinstance(features, StudentFeatures)
    assert (features.channels, features.strides) == ((96, 24), (16, 4))
    found = features(torch.rand(1, 3, 32, 32))
    assert [tuple(one.shape) for one in found] == [(1, 96, 2, 2), (1, 24, 8, 8)]


def test_features_are_frozen_and_let_gradients_through_to_the_image():
    features = StudentFeatures({}, STAGES).train()
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    features(image)[2].sum().backward()
    assert not features.training
    assert image.grad.abs().sum() > 0
    assert all(one.grad is None for one in features.parameters())


def test_images_and_pixels_differ_by_their_range(rng):
    features = StudentFeatures({}, STAGES)
    image = torch.rand(1, 3, 32, 32, generator=rng)
    for ours, theirs in zip(features(image), features.unnormalised(image * 2 - 1), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_shape_comes_from_the_config():
    network = {"widths": [4, 6, 8, 10], "depths": [0, 1, 0], "hidden": [5, 6, 7], "outputs": [3, 4, 5]}
    assert make_features(FeaturesConfig("bundled", network=network)).channels == (3, 4, 5)


@pytest.mark.parametrize(
    ("network", "layers", "expected"),
    [
        ({"width": [1]}, STAGES, "got 'width'"),
        ({"widths": [4, 6, 8]}, STAGES, "expected 4 widths"),
        ({}, ("stage0",), "got 'stage0'"),
        ({}, (), "got 'none'"),
    ],
)
def test_bad_config_is_one_sentence(network, layers, expected):
    with pytest.raises(InputError, match=expected):
        StudentFeatures(network, layers)


@pytest.mark.parametrize("change", ["missing", "unknown", "misshapen"])
def test_weights_must_fit_exactly(change):
    features = StudentFeatures({}, STAGES)
    weights = dict(features.backbone.state_dict())
    if change == "missing":
        del weights["stem.conv.bias"]
    elif change == "unknown":
        weights["stem.conv.scale"] = torch.zeros(1)
    else:
        weights["stem.conv.bias"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"stem\.conv\."):
        features.load_backbone(weights, "file")
