"""What a network is built of is the same choice for every agent."""

from itertools import islice

import pytest

import envs
from tests.contract.support import batches, small, task, weights


def test_every_agent_learns_with_residual_blocks(cls):
    tasks = envs.make(task(cls), num_envs=4)
    blocks = {"hidden_sizes": (8, 8), "block": "simba", "norm": "none", "noisy": False}
    agent = small(cls, tasks, network=blocks, epsilon_start=0.1)  # Rainbow explores by noise alone
    began = weights(agent)
    layers = [layer for own in agent.learners.values() for layer in own.statistics.layers]
    assert any(layer.endswith("trunk.1.inner") for layer in layers)
    for batch in islice(batches(agent, tasks), 4):
        agent.update(batch)
    assert weights(agent).isfinite().all()
    assert not weights(agent).equal(began)


def test_batch_statistics_are_learned_or_refused_by_name(cls):
    tasks = envs.make(task(cls), num_envs=4)
    network = {"hidden_sizes": (8, 8), "norm": "batch_renorm"}
    if not cls.batch_statistics:
        with pytest.raises(ValueError, match=r"network\.norm='batch_renorm' is for agents whose"):
            small(cls, tasks, network=network)
        return
    agent = small(cls, tasks, network=network)
    buffers = [(n, b) for own in agent.learners.values() for n, b in own.buffers.items()]
    counts = [buffer for name, buffer in buffers if name.endswith("batches")]
    assert counts
    for batch in islice(batches(agent, tasks), 8):
        agent.update(batch)
    assert all(count >= 1 for count in counts)


def test_every_agent_learns_with_products_of_half_precision(cls):
    tasks = envs.make(task(cls), num_envs=4)
    agent = small(cls, tasks, optim={"precision": "bfloat16"})
    began = weights(agent)
    for batch in islice(batches(agent, tasks), 4):
        agent.update(batch)
    assert weights(agent).isfinite().all()
    assert not weights(agent).equal(began)
