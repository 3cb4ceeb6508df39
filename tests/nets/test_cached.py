import copy

import torch

from mendiff.nets.cached import LatentCache


def test_every_image_is_encoded_once_and_alone():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = []

    def encode(image):
        asked.append(image)
        return image[:, :1] * 2

    cache = LatentCache()
    first = cache.latents(images[:2], encode)
    second = cache.latents(images[[2, 0]], encode)
    assert torch.equal(torch.cat(asked), images)
    assert [len(one) for one in asked] == [1, 1, 1]
    assert torch.equal(first, images[:2, :1] * 2)
    assert torch.equal(second, images[[2, 0], :1] * 2)


def test_equal_bytes_of_another_shape_are_another_image():
    cache = LatentCache()
    image = torch.zeros(1, 3, 4, 8)
    assert cache.latents(image, lambda one: one).shape == image.shape
    assert cache.latents(image.reshape(1, 3, 8, 4), lambda one: one).shape == (1, 3, 8, 4)


def test_images_beyond_the_capacity_are_encoded_at_every_call():
    images, asked = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), []

    def encode(image):
        asked.append(image)
        return image

    cache = LatentCache(capacity=images[0].numel() * 2, dtype=torch.float16)
    for _ in range(2):
        assert torch.equal(cache.latents(images, encode), images.half().float())
    assert [torch.equal(one, images[:1]) for one in asked] == [True, False, False]
    cache.clear()
    cache.latents(images[:1], encode)
    assert len(asked) == 4


def test_copies_begin_empty_and_give_the_same():
    images, encoded = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), []
    cache = LatentCache(dtype=torch.float16)

    def encode(image):
        encoded.append(len(image))
        return image * 2

    first = cache.latents(images, encode)
    copied = copy.deepcopy(cache)
    assert torch.equal(copied.latents(images, encode), first)
    assert len(encoded) == 4
