"""Parts that lie at any angle are set upright, and what is found goes back to where it was."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mendiff.synthesis.upright import Frame, Pose, orientations_vary, pose_of
from mendiff.types import Detection

SIDE = 64


def peg(angle=0.0, x=0.0, y=0.0):
    """(1,3,S,S): a dark peg with a thick head at its near end, pointing to `angle`, on white."""
    at = (torch.arange(SIDE, dtype=torch.float64) * 2 + 1) / SIDE - 1
    rows, columns = torch.meshgrid(at - y, at - x, indexing="ij")
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    shaft = (along.abs() < 0.6) & (across.abs() < 0.08)
    head = (along > -0.6) & (along < -0.35) & (across.abs() < 0.2)
    return torch.where(shaft | head, 0.2, 0.9).float().expand(1, 3, -1, -1).clone()


def found_in(image):
    return Detection(image.mean((1, 2, 3)), image[:, :1], image, torch.zeros(len(image), dtype=torch.int64))


def apart(one, other):
    return abs(math.remainder(one - other, 2 * math.pi))


@settings(max_examples=25)
@given(st.floats(-math.pi, math.pi), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_angle_and_place_of_a_part_are_found_wherever_it_lies(angle, x, y):
    pose = pose_of(peg(angle, x, y))
    assert bool(pose.clear)
    assert apart(float(pose.angle), angle) < 0.05
    assert torch.allclose(pose.centre, torch.tensor([[x, y]], dtype=torch.float64), atol=0.05)


@settings(max_examples=25)
@given(st.floats(-math.pi, math.pi), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
def test_every_part_is_seen_alike(angle, x, y):
    seen = Frame(peg(angle, x, y), turn=True).image
    assert float((seen - peg()).abs().mean()) < 0.03


@settings(max_examples=25)
@given(st.floats(-math.pi, math.pi))
def test_what_is_found_lies_where_the_image_shows_it(angle):
    image = peg(angle, 0.1, -0.1)
    frame = Frame(image, turn=True)
    found = frame.undo(found_in(frame.image))
    assert float((found.reconstruction - image).abs().mean()) < 0.03
    middle = (slice(None), slice(None), slice(16, 48), slice(16, 48))
    assert float((found.anomaly_map - image[:, :1])[middle].abs().mean()) < 0.08


def test_a_picture_keeps_the_images_own_corners_where_the_frame_has_nothing():
    image = peg(0.7, 0.2, 0.2)
    frame = Frame(image, turn=True)
    shown = frame.undo_picture(torch.zeros_like(image))
    assert float(shown[0, 0, 32, 32]) == 0
    assert torch.allclose(shown[..., 0, 0], image[..., 0, 0], atol=1e-3)


def test_images_without_a_certain_pose_stay_as_they_are():
    ramp = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, -1)
    both = torch.cat([ramp, peg(1.0)])
    seen = Frame(both, turn=True).image
    torch.testing.assert_close(seen[:1], ramp, rtol=0, atol=1e-5)
    assert float((seen[1:] - peg()).abs().mean()) < 0.03


def test_an_image_is_seen_alike_alone_and_among_others():
    many = torch.cat([peg(one, one / 20) for one in (0.1, 1.0, 2.0, -2.5)])
    together = Frame(many, turn=True).image
    for row in range(4):
        torch.testing.assert_close(Frame(many[row : row + 1], turn=True).image[0], together[row])


def test_nothing_moves_where_parts_are_not_to_be_set_upright():
    image = peg(1.0)
    frame = Frame(image, turn=False)
    found = found_in(image)
    assert frame.image is image
    assert frame.undo(found) is found


def poses(angles, clear=None):
    clear = [True] * len(angles) if clear is None else clear
    return Pose(torch.tensor(angles), torch.zeros(len(angles), 2), torch.tensor(clear))


@pytest.mark.parametrize(
    ("pose", "expected"),
    [
        (poses([0.0, 1.6, 3.1, -1.6]), True),
        (poses([0.0, 0.1, -0.1, 0.05]), False),  # they lie alike already
        (poses([0.0, 1.6, 3.1, -1.6], [True, True, True, False]), False),  # one in four is uncertain
        (poses([]), False),
    ],
)
def test_parts_are_set_upright_where_they_lie_variously_and_for_certain(pose, expected):
    assert orientations_vary(pose) is expected


def test_round_and_even_parts_have_no_certain_pose():
    at = torch.arange(SIDE) - SIDE / 2
    disc = torch.where(at[:, None] ** 2 + at**2 < 300, 0.2, 0.9).expand(1, 3, -1, -1)
    bar = torch.where((at[:, None].abs() < 5) & (at.abs() < 20), 0.2, 0.9).expand(1, 3, -1, -1)
    assert not pose_of(disc).clear
    assert not pose_of(bar).clear  # its two ends are alike
