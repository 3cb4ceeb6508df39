"""The rows of the papers' ablations against their tables."""

import pytest
import torch

from mendiff.evaluation.ablations import ABLATIONS
from mendiff.evaluation.papers import find_table
from mendiff.methods.base import find_preset
from mendiff.methods.config import config_to_dict, override
from mendiff.nets.features import make_features


def features_of(row):
    config = override(find_preset("diad", "paper"), {**row.settings, **row.changes})
    return make_features(config.features)


@pytest.mark.parametrize("row", ABLATIONS["diad-backbones"].rows, ids=lambda row: row.label)
def test_every_backbone_of_table_8_is_compared_at_strides_4_8_and_16(row):
    with torch.device("meta"):
        features = features_of(row)
        maps = features(torch.zeros(1, 3, 64, 64))
    assert tuple(features.strides) == (4, 8, 16)
    assert [one.shape[-1] for one in maps] == [16, 8, 4]


def test_tables_8_to_10_and_the_poolings_of_diad_have_a_row_for_each_of_theirs():
    for name, key in (
        ("diad-backbones", "diad-8"),
        ("diad-steps", "diad-10"),
        ("diad-pooling", "diad-pooling"),
    ):
        assert len(ABLATIONS[name].rows) == len(find_table(key).settings)
    steps = [row.changes["sampler_steps"] for row in ABLATIONS["diad-steps"].rows]
    assert [f"{one} step{'s' * (one > 1)}" for one in steps] == list(find_table("diad-10").settings)
    pooling = [list(row.changes.values()) for row in ABLATIONS["diad-pooling"].rows]
    assert [f"{rounds} x {side}" for rounds, side in pooling] == list(find_table("diad-pooling").settings)
    layers = [row for name in ("diad-layers", "diad-outer-layers") for row in ABLATIONS[name].rows]
    chosen = {tuple(row.changes["features.layers"]) for row in layers}
    assert len(chosen) == len(layers) == 15
    assert find_preset("diad", "paper").features.layers == ("stage1", "stage2", "stage3")
    assert {one for some in chosen for one in some} == {f"stage{number}" for number in range(5)}


@pytest.mark.parametrize(
    ("name", "field", "published"),
    [
        ("diad-steps", "sampler_steps", 10),
        ("diad-timesteps", "start_timesteps", [1000]),
        ("diad-pooling", "readout.pool_side", 8),
        ("ran-alpha", "readout.kl_weight", 0.5),
        ("ran-timesteps", "start_timesteps", [20, 60, 150, 250]),
        ("glad-rewind", "rewind", 0),
    ],
)
def test_a_sweep_holds_the_papers_presets_own_value(name, field, published):
    rows = ABLATIONS[name].rows
    assert published in [row.changes[field] for row in rows]
    config = config_to_dict(find_preset(rows[0].method, "paper"))
    for part in field.split("."):
        config = config[part]
    assert config == published
