"""What a command says that it takes, before it begins."""

import dataclasses

import torch

from cdam_fast.measuring import durations, peer_bench, peers

CPU = torch.device("cpu")


def test_the_estimate_grows_with_the_work():
    some = [peer for peer in peers.PEERS if peer.own and "cpu" in peer.devices]
    small = peer_bench.PeerOptions(((4, 4),), (20,), CPU, 30, "none")
    large = dataclasses.replace(small, grids=((4, 4), (28, 28)), classes=(20, 300))
    assert 0 < durations.of_peers(small, some) < durations.of_peers(large, some)
    assert durations.of_peers(dataclasses.replace(small, compile="all"), some) > 60
