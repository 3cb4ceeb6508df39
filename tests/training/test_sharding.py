"""Whole weights in place of shards, without FSDP; anomalib_models/test_processes.py has the real ones."""

import torch
from torch import nn

from mendiff.training.sharding import unshard, whole_weights


def test_weights_that_are_whole_stay_as_they_are():
    network = nn.Linear(2, 2)
    weight = network.weight.clone()
    with whole_weights(network):
        assert torch.equal(network.weight, weight)
    with whole_weights(None):
        pass
    network.bias.requires_grad_(False)
    unshard(network, network)
    assert torch.equal(network.weight, weight)
    assert [one.requires_grad for one in network.parameters()] == [True, False]
