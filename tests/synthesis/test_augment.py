import pytest
import torch

from mendiff.synthesis import augment as module
from mendiff.synthesis.augment import OPERATIONS, augment


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("index", range(len(OPERATIONS)))
def test_every_operation_changes_the_picture_and_leaves_the_global_rng_alone(
    index, pictures, global_rng_untouched
):
    picture = pictures[0] * 0.8 + 0.1
    with global_rng_untouched():
        changed = OPERATIONS[index](picture, seeded(3))
    assert changed.shape == picture.shape
    assert changed.dtype == picture.dtype
    assert bool(changed.isfinite().all())
    assert not torch.allclose(changed, picture, atol=1e-3)


def test_result_is_a_picture_and_repeatable(pictures, global_rng_untouched):
    with global_rng_untouched():
        for seed in range(30):
            changed = augment(pictures[seed % 4], seeded(seed))
            assert float(changed.min()) >= 0
            assert float(changed.max()) <= 1
            assert torch.equal(changed, augment(pictures[seed % 4], seeded(seed)))
    assert not torch.equal(augment(pictures[0], seeded(1)), augment(pictures[0], seeded(2)))


def test_given_picture_stays_as_it_is(pictures):
    before = pictures[1].clone()
    for seed in range(10):
        augment(pictures[1], seeded(seed))
    assert torch.equal(pictures[1], before)


def test_the_asked_number_of_different_operations_runs(pictures, monkeypatch):
    used = []

    def recorder(index):
        def operation(image, rng):
            used.append(index)
            return image

        return operation

    monkeypatch.setattr(module, "OPERATIONS", tuple(recorder(index) for index in range(10)))
    seen = set()
    for seed in range(40):
        used.clear()
        augment(pictures[0], seeded(seed))
        assert len(used) == len(set(used)) == 3
        seen |= set(used)
    assert seen == set(range(10))
