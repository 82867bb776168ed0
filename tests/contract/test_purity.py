"""Every loss is a pure function of its learner's weights and its inputs.

So it can be stacked over many seeds with `vmap` and compiled to one graph, whatever the agent.
"""

from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import envs
from envs.vector import VectorEnv
from tests.contract.support import batches, bits, small, task

RICH: dict[str, Any] = {
    "entropy_weight": 0.01,
    "value_clip": 0.2,
    "network": {"hidden_sizes": (16, 16), "norm": "layer", "dropout": 0.2, "residual": True},
}


class Walk(gymnasium.Env):
    """A random walk that two numbers push about; it ends far out."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.normal(size=3).astype(np.float32)
        return self.at, {}

    def step(self, action):
        self.at = self.at + self.np_random.normal(size=3).astype(np.float32) * 0.3
        self.at[:2] += action
        far = np.abs(self.at).max()
        return self.at, -float(far), bool(far > 2), False, {}


def losses(monkeypatch, agent, tasks, count=4):
    """The learner, loss and inputs of the last step along each loss in `count` updates."""
    found = {}

    def spy(learner):
        gradient = learner.gradient

        def noted(loss, *inputs):
            found[learner.name, loss.__qualname__] = (learner, loss, inputs)
            return gradient(loss, *inputs)

        monkeypatch.setattr(learner, "gradient", noted)

    for learner in agent.learners.values():
        spy(learner)
    for batch in islice(batches(agent, tasks), count):
        agent.update(batch)
    monkeypatch.undo()
    assert {name for name, _ in found} == set(agent.learners)
    return found.values()


@pytest.fixture(params=["plain", "rich", "box"])
def found(request, cls, monkeypatch):
    """What `losses` finds of an agent, in several settings."""
    box = request.param == "box"
    tasks = VectorEnv([Walk(), Walk()]) if box else envs.make(task(cls), num_envs=2)
    try:
        agent = small(cls, tasks, **({} if request.param == "plain" else RICH))
    except ValueError as error:
        if not box:
            raise
        pytest.skip(str(error))
    return losses(monkeypatch, agent, tasks)


def total(learner, loss, inputs):
    """The loss as a function of the flat weight vector."""
    functional = learner.functional(loss)

    def evaluate(vector):
        terms, aux = functional(vector, *inputs)
        return sum(terms.values()), (terms, aux)

    return evaluate


def test_a_loss_stacked_over_two_weight_vectors_is_two_losses(found):
    for learner, loss, inputs in found:
        own = learner.flat.vector.clone()
        stack = torch.stack([own, own + 0.02 * torch.randn(own.shape)])
        differentiated = torch.func.grad_and_value(total(learner, loss, inputs), has_aux=True)
        gradients, (sums, (terms, aux)) = torch.vmap(differentiated)(stack)
        for k, vector in enumerate(stack):
            learner.flat.vector.copy_(vector)
            own_terms, own_aux = learner.gradient(loss, *inputs)
            for together, alone in ((terms, own_terms), (aux, own_aux)):
                mine = {name: value[k] for name, value in together.items()}
                torch.testing.assert_close(mine, alone, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(sums[k], sum(own_terms.values()), rtol=1e-5, atol=1e-6)
            scale = float(learner.flat.gradient.abs().max())
            assert scale > 0
            torch.testing.assert_close(
                gradients[k] / scale, learner.flat.gradient / scale, rtol=1e-5, atol=1e-5
            )


def test_a_loss_compiles_to_one_graph_with_the_same_gradient(found):
    for learner, loss, inputs in found:
        torch._dynamo.reset()
        compiled = torch.compile(total(learner, loss, inputs), backend="aot_eager", fullgraph=True)
        vector = learner.flat.vector.clone().requires_grad_()
        value, _ = compiled(vector)
        value.backward()
        terms, _ = learner.gradient(loss, *inputs)
        torch.testing.assert_close(value.detach(), sum(terms.values()), rtol=1e-5, atol=1e-6)
        scale = float(learner.flat.gradient.abs().max())
        torch.testing.assert_close(
            vector.grad / scale, learner.flat.gradient / scale, rtol=1e-5, atol=1e-5
        )


def test_a_loss_leaves_no_trace_and_is_detached_in_its_aux(cls, monkeypatch):
    tasks = envs.make(task(cls), num_envs=2)
    agent = small(cls, tasks, **RICH)
    for _, loss, inputs in losses(monkeypatch, agent, tasks):
        before, stream = bits(agent.state_dict()), torch.get_rng_state()
        first, second = loss(*inputs), loss(*inputs)
        assert bits(agent.state_dict()) == before
        assert torch.equal(torch.get_rng_state(), stream)
        assert not any(value.requires_grad for value in first[1].values())
        assert all(term.ndim == 0 and term.requires_grad for term in first[0].values())
        torch.testing.assert_close(first, second, rtol=0, atol=0)
