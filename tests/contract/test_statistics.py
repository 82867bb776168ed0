"""What the logs say of gradients is there, for every layer, and adds up to what really happened."""

from collections import defaultdict

import numpy as np
import pytest
import torch

import envs
from agents import Callback, OptimConfig, train
from agents.core.network import Network
from agents.runner.recorder import Recorder
from tests.contract.support import small, task
from tests.runner.fakes import rows

LR, LONGEST = 0.04, 0.05
RICH = {"norm": "layer", "residual": True, "dropout": 0.1}


class Watch(Callback):
    """Keeps each learner's weights after each of its steps."""

    def __init__(self):
        self.steps = defaultdict(list)
        self.vectors = defaultdict(list)

    def started(self, run):
        for name, learner in run.agent.learners.items():
            self.vectors[name].append(learner.flat.vector.clone())

    def learned(self, run, learner, step):
        self.steps[learner.name].append(step)
        self.vectors[learner.name].append(learner.flat.vector.clone())


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize("network", [{}, RICH], ids=["plain", "rich"])
def test_the_logs_of_layers_add_up_to_the_whole(cls, network, tmp_path):
    tasks = envs.make(task(cls), num_envs=4)
    # A step of plain gradient descent tells the gradient's direction.
    descent = {"optimizer": "sgd", "betas": OptimConfig().betas, "lr": LR}
    descent |= {"max_grad_norm": LONGEST, "stats_every": 1}
    # Unbounded, for steps that are long beside the rounding of the weights.
    agent = small(cls, tasks, network=network, optim=descent, kappa=None)
    watch = Watch()
    train(agent, tasks, 800, [Recorder(tmp_path, log_every=1), watch])

    table = rows(tmp_path / "updates.csv")
    by_update = defaultdict(list)
    for row in rows(tmp_path / "gradients.csv"):
        by_update[row["learner"], row["update"]].append(row)
    assert {row["learner"] for row in table} == set(agent.learners)
    assert len(table) == len(by_update) == sum(map(len, watch.steps.values())) >= 4
    assert any(int(row["clipped"]) for row in table)
    for row in table:
        name, k = row["learner"], int(row["update"])
        before, after = watch.vectors[name][k - 1 : k + 1]
        layers = by_update[name, row["update"]]
        assert [layer["layer"] for layer in layers] == list(agent.learners[name].statistics.layers)
        numbers = {
            column: np.array([float(layer[column]) for layer in layers])
            for column in ("grad_norm", "weight_norm", "update_ratio", "zero_fraction")
        }
        for whole, parts in (
            (float(row["grad_norm"]), numbers["grad_norm"]),
            (float(before.norm()), numbers["weight_norm"]),
            (float((after - before).norm()), numbers["update_ratio"] * numbers["weight_norm"]),
        ):
            assert np.linalg.norm(parts) == pytest.approx(whole, rel=1e-3)
        optim = agent.learners[name].config  # a natural gradient has a length of its own
        step = optim.lr * min(float(row["grad_norm"]), optim.max_grad_norm or np.inf)
        # abs: what weights are rounded by, which a temperature near its goal hardly exceeds
        assert float((after - before).norm()) == pytest.approx(step, rel=1e-3, abs=1e-7)
        terms = [float(row[term]) for term in watch.steps[name][k - 1].terms]
        assert float(row["loss"]) == pytest.approx(sum(terms))
        assert float(row["lr"]) == optim.lr
        assert ((numbers["zero_fraction"] >= 0) & (numbers["zero_fraction"] <= 1)).all()
        if k > 1:
            last = before - watch.vectors[name][k - 2]
            assert float(row["cosine"]) == pytest.approx(cosine(last, after - before), abs=1e-2)


@pytest.mark.parametrize("network", [{}, RICH], ids=["plain", "rich"])
def test_every_layer_of_every_network_has_its_name(cls, network):
    tasks = envs.make(task(cls), num_envs=1)
    agent = small(cls, tasks, network=network)
    for learner in agent.learners.values():
        networks = [m for m in learner.modules.values() if isinstance(m, Network)]
        trunks = sum(n.trunks for n in networks)
        heads = [head for n in networks for head in n.heads]
        layers = learner.statistics.layers
        assert sum("trunk" in layer for layer in layers) == 2 * trunks  # two hidden layers
        assert all(sum(f"{head}.head" in layer for layer in layers) >= 1 for head in heads)
        covered = sum(stop - start for _, start, stop in learner.flat.segments)
        assert covered == learner.flat.vector.numel()
        assert learner.flat.vector.numel() == sum(
            p.numel() for m in learner.modules.values() for p in m.parameters() if p.requires_grad
        )
