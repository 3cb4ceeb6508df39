"""Held-back images: never trained on, the same ones in any order."""

from dataclasses import replace

import pytest

from mendiff.anomalib_models import Glad, GoodImages, train
from mendiff.errors import InputError
from tests.parts import CONFIG, datamodule, engine, loader, pictures, recorded

pytestmark = pytest.mark.filterwarnings(r"ignore:::lightning\..*")


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


def test_too_few_different_images_are_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"expected at least 2 different good images, .* got 1"):
        train(Glad(CONFIG), GoodImages(pictures(1) + pictures(1), 32), workdir=tmp_path)


def test_a_fit_to_images_that_were_all_held_back_before_leaves_some_to_train_on():
    model, images = Glad(CONFIG), GoodImages(pictures(8), 32)
    model.hold_back(images.identities)
    kept = [pair for pair in images.identities if pair[0] in model.held_back]
    model.hold_back(kept)
    assert len(model.held_back) == 2
