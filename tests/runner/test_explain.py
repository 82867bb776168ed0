"""What is explained is what the agent estimates or does, of whatever kind the agent is."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.core import relevance
from agents.runner.arguments import BadInput
from agents.runner.explain import attributions, described, output_of, unit_of
from agents.runner.registry import AGENTS
from tests.contract.support import config

BOX = spaces.Box(-1, 1, (4,))
X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
MEAN = X.mean(0, keepdim=True)
OFF_POLICY = ["sac", "tqc", "redq", "droq", "crossq", "td3", "ddpg"]


def agent_of(name: str, actions: spaces.Space[Any], **settings: Any) -> Any:
    cls = AGENTS[name]
    agent = cls(BOX, actions, config(cls, **settings))
    with torch.no_grad():  # nothing is equal by chance, nothing nearly uniform
        for learner in agent.learners.values():
            generator = torch.Generator().manual_seed(1)
            noise = torch.randn(learner.flat.vector.shape, generator=generator)
            learner.flat.vector += 0.3 * noise
    return agent


@pytest.mark.parametrize("name", ["trpo", "npg"])
def test_lrp_of_a_value_goes_through_the_critic(name):
    agent = agent_of(name, spaces.Discrete(2))
    found = attributions(agent, X, "value", "lrp", MEAN)
    expected = relevance.layerwise_relevance(agent.critic, X, "value", torch.ones(32, 1))
    assert torch.equal(found, expected)
    with torch.no_grad():
        agent.value_learner.flat.vector.zero_()
    assert not attributions(agent, X, "value", "lrp", MEAN).any()
    assert attributions(agent, X, "action", "lrp", MEAN).any()


@pytest.mark.parametrize("name", ["discrete_sac", "recurrent_ppo", "recurrent_a2c"])
def test_lrp_of_a_value_that_no_dense_network_gives_is_refused(name):
    agent = agent_of(name, spaces.Discrete(2))
    with pytest.raises(ValueError, match="use integrated gradients"):
        attributions(agent, X, "value", "lrp", MEAN)
    assert attributions(agent, X, "value", "integrated", MEAN).any()


def test_lrp_of_several_critics_is_refused_with_what_to_use():
    agent = agent_of("discrete_sac", spaces.Discrete(2))
    with pytest.raises(BadInput, match="has no one network"):
        attributions(agent, X, "value", "lrp", MEAN)


def test_of_several_choices_the_first_one_is_explained():
    agent = agent_of("ppo", spaces.MultiDiscrete([3, 2]))
    logits = agent.network(X)["policy"]
    first = logits[:, :3]
    assert bool((logits.argmax(-1) > 2).any())  # the largest of all is not always of the first
    found = output_of(agent, "action")(X)
    torch.testing.assert_close(found, first.amax(-1) - first.mean(-1))
    assert described(agent, "action") == "action's first choice of 2"
    with torch.no_grad():
        agent.network.heads["policy"].weight[:3] = 0.0
    for method in ("gradient", "integrated", "lrp"):
        assert not attributions(agent, X, "action", method, MEAN).any()


def test_of_several_switches_the_first_one_is_explained():
    agent = agent_of("ppo", spaces.MultiBinary(3))
    first = agent.network(X)["policy"][:, 0]
    assert 0 < int((first > 0).sum()) < 32
    torch.testing.assert_close(output_of(agent, "action")(X), first.abs())
    assert described(agent, "action") == "action's first switch of 3"
    with torch.no_grad():
        agent.network.heads["policy"].weight[0] = 0.0
    for method in ("gradient", "integrated", "lrp"):
        assert not attributions(agent, X, "action", method, MEAN).any()


@pytest.mark.parametrize(
    "actions",
    [spaces.Dict({"a": spaces.Discrete(2)}), spaces.Tuple([spaces.Discrete(2), BOX])],
    ids=["dict", "tuple"],
)
def test_actions_of_several_kinds_are_refused(actions):
    agent = agent_of("ppo", actions)
    with pytest.raises(BadInput, match="use --explain value"):
        output_of(agent, "action")
    assert output_of(agent, "value")(X).shape == (32,)


@pytest.mark.parametrize("name", ["ppo", *OFF_POLICY])
def test_of_box_actions_the_first_mean_is_explained(name):
    agent = agent_of(name, spaces.Box(-2, 2, (3,), np.float32))
    mean = output_of(agent, "action")(X)
    acted = torch.from_numpy(agent.act(X.numpy()))[:, 0]
    expected = 2.0 * (mean if name == "ppo" else mean.tanh())
    torch.testing.assert_close(acted, expected.detach().clamp(-2, 2), rtol=1e-4, atol=1e-5)
    assert described(agent, "action") == "action's first number of 3"
    found = attributions(agent, X, "action", "integrated", MEAN)
    change = (mean - output_of(agent, "action")(MEAN)).detach()
    torch.testing.assert_close(found.sum(1), change, rtol=5e-2, atol=5e-2)
    with pytest.raises(BadInput, match="use integrated gradients"):
        attributions(agent, X, "action", "lrp", MEAN)


@pytest.mark.parametrize("member", ["policy", "value"])
def test_a_unit_is_found_by_the_name_of_its_layer(member):
    agent = agent_of("ppo", spaces.Discrete(2))
    first, second = agent.network.trunk
    stack = second(first(X.expand(2, -1, -1)))
    found = unit_of(agent, f"{member}.trunk.1:7")(X)
    assert torch.equal(found, stack[["policy", "value"].index(member), :, 7])


def test_a_unit_of_a_name_that_two_learners_have_needs_the_learner():
    agent = agent_of("trpo", spaces.Discrete(2))
    for name, network in (("policy", agent.network), ("value", agent.critic)):
        found = unit_of(agent, f"{name}:trunk.0:3")(X)
        assert torch.equal(found, network.trunk[0](X)[:, 3])
    with pytest.raises(BadInput, match=r"use policy:trunk\.0:3 or value:trunk\.0:3"):
        unit_of(agent, "trunk.0:3")


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("policy.trunk.1:16", "use an index from 0 to 15"),
        ("policy.trunk.1:-1", "use LAYER:INDEX"),
        ("policy.trunk.1", "use LAYER:INDEX"),
        ("policy.head:0", "the hidden layers are ppo:policy.trunk.0, ppo:value.trunk.0, ppo:pol"),
        ("value:policy.trunk.1:0", "the hidden layers are ppo:"),
    ],
)
def test_an_unknown_unit_is_refused_with_what_there_is(unit, message):
    with pytest.raises(BadInput, match=message):
        unit_of(agent_of("ppo", spaces.Discrete(2)), unit)


def test_a_unit_that_reads_actions_is_refused():
    agent = agent_of("td3", spaces.Box(-1, 1, (1,)))
    with pytest.raises(BadInput, match="reads actions too"):
        unit_of(agent, "0.q.trunk.0:0")
