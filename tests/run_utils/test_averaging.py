"""The average of weights moves by its definition, and the network's buffers go with it."""

from __future__ import annotations

import torch
from torch import nn

from run_utils.training.averaging import make_average, move_average


def test_the_average_is_the_weighted_sum_of_all_weights_that_there_were() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    average = make_average(network)
    decays, seen = [0.9, 0.5, 0.75], []
    for decay in decays:
        network(torch.rand(2, 3, 8, 8))  # changes the statistics of the batch norm
        with torch.no_grad():
            network[0].weight.normal_()
        seen.append({name: values.clone() for name, values in network.state_dict().items()})
        move_average(average, network, decay)
    shares = [0.5 * 0.75, 0.5 * 0.75, 0.25]  # the first is taken whole
    for name, found in average.module.state_dict().items():
        if found.is_floating_point():
            expected = sum(share * state[name] for share, state in zip(shares, seen, strict=True))
            torch.testing.assert_close(found, expected)
        else:
            assert found == len(decays)
