"""On the probes every agent learns the values that are known in closed form.

That takes right targets under termination and truncation, the discount applied once, actions,
rewards and observations kept together, and nothing learned from the rows in which a vector
environment resets itself.
"""

import math
from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from agents import BootstrappedDQN, DiscreteSAC, train
from agents.core.network import Network
from agents.exploration import uniform
from envs import probe
from envs.vector import VectorEnv
from tests.contract.support import chooses, small, task, weights

GAMMA = 0.9
QUICK: dict[str, Any] = {
    "gamma": GAMMA,
    "episodes_per_update": 8,
    "batch_size": 32,
    "learning_starts": 100,
    "buffer_size": 2000,
    "target_every": 10,
    "epsilon_start": 1.0,
    "epsilon_end": 1.0,  # no action is left out, and action values are the same for any policy
    "normalize_advantage": False,
    "entropy_weight": 0.0,
    "kappa": None,  # bounds steps of plain gradient descent
    "temperature": 1e-3,  # entropy is worth nothing
    "normalize_obs": False,
    "normalize_reward": False,  # values are known of rewards as they are
    "network": {"hidden_sizes": (32,)},
    "optim": {"optimizer": "adam", "lr": 2e-2, "schedule": "linear", "max_grad_norm": None},
}
CLOSE: dict[str, Any] = {"tau": 0.05}
"""Where a target moves a little in every update, it keeps up with values learned so quickly."""
SUPPORT = {"v_min": -2.0, "v_max": 2.0}
SLOWER: dict[str, Any] = {
    "c51": SUPPORT,
    "rainbow": SUPPORT,
    # fractions drawn anew in every update shake it, and a maximum over that is too high
    "iqn": {"optim": QUICK["optim"] | {"lr": 1e-2}},
    "ddpg": {"optim": QUICK["optim"] | {"lr": 1e-2}},  # one critic, whose errors none makes good
    # a high quantile is a steep function of an action that makes one of two returns more likely
    "tqc": {"quantiles": 2, "dropped": 0},
    # what a batch is normalised by is noise, which falls as batches grow; and without a target
    # network it follows the accidents of what it holds so closely that it has to hold more; a
    # policy at the ends of the actions, where it soon is, has much entropy to lose
    "crossq": {
        "batch_size": 256,
        "buffer_size": 8000,
        "updates_per_step": 0.5,
        "temperature": 1e-4,
    },
    "discrete_sac": CLOSE,
}
"""What some agents are given beside that."""
BLURRED: dict[str, Any] = {"crossq": {"temperature": 0.02}}
"""An actor that is all but certain stays in the first kink of critics that it takes exactly."""
GENTLE = QUICK["optim"] | {"lr": 7e-3, "max_grad_norm": 0.5}
"""The likelihood of an action has steep gradients once a Gaussian is narrow."""


def remembered(agent, kind):
    """V of each state as it is met in the course of episodes: a network with a memory knows more
    than what it sees, and values what it has never met at random."""
    env = kind()
    met: dict[int, list[float]] = defaultdict(list)
    for seed in range(20):
        (obs, _), over, steps = env.reset(seed=seed), False, 0
        actor = agent.actor(1, explore=False)
        while not over and steps < 3:
            row, state = torch.from_numpy(obs)[None], torch.from_numpy(actor.carried["state"])
            met[env.state].append(float(agent.network(row, state=state)["value"]))
            obs, _, *ends, _ = env.step(actor.act(obs[None])[0][0])
            over, steps = any(ends), steps + 1
    return np.array([np.mean(met[number]) for number in range(len(kind.observations))])


def learned(agent, kind):
    """What the agent's networks say of states: Q `(S, A)` by "q", V `(S,)` by "value"."""
    with torch.no_grad():
        if agent.config.network.recurrent != "none":
            return [("value", remembered(agent, kind))]
        if not chooses(type(agent)) and hasattr(agent, "q_values"):  # every critic's
            obs = torch.from_numpy(kind.observations)
            ends = [agent.q_values(obs, torch.full((len(obs), 1), a)) for a in (-1.0, 1.0)]
            return [("q", q.numpy()) for q in torch.stack(ends, -1)]
        if isinstance(agent, BootstrappedDQN):  # every member's, not their mean alone
            return [("q", q.numpy()) for q in agent.q(torch.from_numpy(kind.observations))]
        if hasattr(agent, "q_values"):
            return [("q", agent.q_values(torch.from_numpy(kind.observations)).numpy())]
        outputs = [
            (head, output.numpy())
            for learner in agent.learners.values()
            for module in learner.modules.values()
            if isinstance(module, Network)
            for head, output in module(torch.from_numpy(kind.observations)).items()
            if head in ("q", "value")
        ]
    assert outputs, "no head is called q or value: tell here how this agent's values are read"
    return outputs


class Interrupted(probe.Truncation):
    """Truncated half the time, begun anywhere. An agent with a memory knows when it is three steps
    into an episode, and if nothing ever followed upon three it could not know what that is worth.
    With γ = 0.5 V(1) is 0.67; with truncations taken for terminations 0.8, as it is if the next
    episode's first observation is taken for the successor."""

    starts = (0, 1)
    limit = math.inf

    def step(self, action):
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, bool(self.np_random.random() < 0.5), info


if Interrupted.id not in gymnasium.registry:
    gymnasium.register(Interrupted.id, entry_point=lambda **_: Interrupted())


def at_random(agent):
    """A policy that leaves out no action."""
    if not chooses(type(agent)):
        return lambda obs, carried, explore, rng: uniform(len(obs), agent.action_size, rng)
    count = agent.discrete_actions()
    return lambda obs, carried, explore, rng: rng.integers(count, size=len(obs))


def looped(num_envs):
    return lambda kind, **options: envs.make(kind.id, num_envs, **options)


def vectorized(mode):
    copies = 3

    def make(kind, **options):
        makers = [lambda: gymnasium.make(kind.id, disable_env_checker=True, **options)] * copies
        return VectorEnv(SyncVectorEnv(makers, autoreset_mode=mode))

    return make


FORMS = {"4": looped(4), "1": looped(1)} | {
    mode.name: vectorized(mode) for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
}
CASES = [(kind, "4") for kind in probe.DISCRETE] + [
    (probe.Truncation, form) for form in FORMS if form != "4"
]


@pytest.mark.parametrize(
    ("kind", "form"), CASES, ids=[f"{kind.__name__}-{form}" for kind, form in CASES]
)
def test_the_values_of_a_probe_are_learned(cls, kind, form, monkeypatch):
    settings = QUICK | SLOWER.get(cls.name, {}) | ({} if chooses(cls) else CLOSE)
    if kind is probe.Truncation and cls.Config().network.recurrent != "none":
        kind, settings = Interrupted, settings | {"gamma": 0.5, "rollout_size": 32}
    tasks = FORMS[form](kind, **{} if chooses(cls) else {"continuous": True})
    agent = small(cls, tasks, seed=1, **settings)
    # These have no epsilon, and do no more what they do not believe in.
    if cls in (BootstrappedDQN, DiscreteSAC) or not chooses(cls):
        monkeypatch.setattr(agent, "carry_on", at_random(agent))
    # V of the optimal policy is known, and here that policy has to be found first.
    train(agent, tasks, 8000 if kind is probe.DelayedReward else 3000)
    monkeypatch.undo()
    for head, values in learned(agent, kind):
        gamma = settings["gamma"]
        known = kind.q_values(gamma) if head == "q" else kind.values(gamma)
        np.testing.assert_allclose(values, known, atol=0.08, err_msg=head)
    q_values = kind.q_values(GAMMA)
    matters = np.ptp(q_values, axis=-1) > 0
    best = q_values.argmax(-1)
    action = agent.act(kind.observations)
    if not chooses(cls):  # close enough to one end
        action = np.round((action[:, 0] + 1) / 2)
    assert (action[matters] == best[matters]).all()
    estimate = agent.expected_return(kind.observations)
    if estimate is not None and agent.config.network.recurrent == "none":
        known = kind.q_values(settings["gamma"]).max(-1)
        close = 0.1 if chooses(cls) else 0.2  # an action near an end is worth a little less
        np.testing.assert_allclose(estimate, known, atol=close, err_msg="estimate")


def test_the_values_and_actions_of_the_continuous_probe_are_learned(cls):
    """V is compared with what the policy as it has become earns, noise and clipping included."""
    kind = probe.BoxAction
    tasks = envs.make(kind.id, num_envs=4)
    try:
        own = SLOWER.get(cls.name, {}) | BLURRED.get(cls.name, {})
        agent = small(cls, tasks, seed=1, **QUICK | {"optim": GENTLE} | own)
    except ValueError as error:
        pytest.skip(str(error))
    train(agent, tasks, 8000)
    earned = []
    for seen, best in zip(kind.observations, kind.best_actions, strict=True):
        assert agent.act(seen) == pytest.approx(best, abs=0.1)
        action, _ = agent.actor(2000).act(np.tile(seen, (2000, 1)))
        earned.append(np.mean(seen - (np.clip(action, -1, 1) - seen / 2) ** 2))
    found = learned(agent, kind)
    if found[0][0] == "q":  # of the actions that it takes
        seen, action = kind.observations, agent.act(kind.observations)
        with torch.no_grad():
            q_values = agent.q_values(torch.from_numpy(seen), torch.from_numpy(action))
        found = [("q", q.numpy()) for q in q_values]
    for head, values in found:
        np.testing.assert_allclose(values, earned, atol=0.06, err_msg=head)
    np.testing.assert_allclose(earned, kind.values(GAMMA), atol=0.15)


class Tilted(gymnasium.Wrapper):
    """CartPole that pays what `pays` makes of the pole's angle, of either sign."""

    def __init__(self, id, pays):
        super().__init__(gymnasium.make(id))
        self.pays = pays

    def step(self, action):
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, float(self.pays(obs[2])), terminated, truncated, info


def test_with_clipped_rewards_an_agent_learns_from_their_signs_alone(cls):
    """Bit for bit what it learns where nothing else is paid; not so if they are not clipped."""

    def learned_from(pays, clip_reward):
        tasks = VectorEnv([Tilted(task(cls), pays) for _ in range(2)])
        agent = small(cls, tasks, clip_reward=clip_reward, normalize_reward=False)
        train(agent, tasks, 200)
        return weights(agent)

    whole, signs, plain = (
        learned_from(pays, clip)
        for pays, clip in ((lambda x: 9 * x, True), (np.sign, True), (lambda x: 9 * x, False))
    )
    assert torch.equal(whole, signs)
    assert not torch.equal(whole, plain)


def test_clipped_and_normalized_at_once_is_refused(cls):
    with pytest.raises(ValueError, match=r"clip_reward is True: use it without normalize_reward"):
        cls.Config(clip_reward=True, normalize_reward=True)
