"""Traces against the λ-returns that they stand for, and the bound against what it promises."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents import OptimConfig, StreamQ, StreamQConfig, StreamSARSA, StreamSARSAConfig, targets
from agents.traces import overshooting_bound
from envs.transition import Transition
from envs.vector import VectorEnv
from tests.contract.support import batches, config

GAMMA, STEPS, ENVS = 0.9, 150, 2
STILL = OptimConfig("sgd", lr=1e-30, stats_every=0)
"""Steps too small to change a weight."""
HALF = replace(STILL, precision="bfloat16")
AGENTS: list[Any] = [StreamQ, StreamSARSA]


def frozen(cls: Any, lambda_: float, **changes: Any) -> Any:
    """An agent that explores and learns nothing, in episodes that end for both reasons."""
    tasks = VectorEnv(
        [TimeLimit(gymnasium.make("CartPole-v1").unwrapped, 14) for _ in range(ENVS)], seed=0
    )
    settings: dict[str, Any] = {
        "gamma": GAMMA,
        "lambda_": lambda_,
        "kappa": None,
        "epsilon_start": 0.6,
        "epsilon_end": 0.6,
        "normalize_obs": False,  # else s' is seen with other statistics than a step later
        "normalize_reward": False,
        "optim": STILL,
    }
    made = config(cls, **settings | changes)
    agent = cls(tasks.observation_space, tasks.action_space, made, seed=1)
    with torch.no_grad():  # values that differ: sparse weights begin close to 0
        noise = torch.randn(agent.learner.flat.vector.shape, generator=torch.manual_seed(0))
        agent.learner.flat.vector.add_(noise, alpha=0.3)
    return agent, tasks


def along(agent: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the agent follows from now on, step by step."""
    taken: list[Tensor] = []
    step_along = agent.learner.step_along

    def noted(direction: Tensor, *rest: Any) -> Any:
        taken.append(direction.double())
        return step_along(direction, *rest)

    monkeypatch.setattr(agent.learner, "step_along", noted)
    return taken


def greedy(q: np.ndarray, *_: Any) -> np.ndarray:
    return q.argmax(-1)


def forward_view(agent: Any, stream: list[Transition]) -> Tensor:
    """-Σ_t (G_t - q_t) ∇q_t over the stream of one environment, by autograd."""
    rows: dict[str, Any] = {
        name: torch.cat([getattr(step, name) for step in stream])
        for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "valid")
    }
    batch = Transition(**rows)
    q = agent.network(batch.obs)["q"]
    chosen = q.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    next_q, done = agent.network(batch.next_obs)["q"].detach(), batch.done
    if agent.name == "stream_q":
        next_value = next_q.amax(-1)
        explored = (chosen < q.amax(-1))[1:]
        done = done | torch.cat([explored, torch.tensor([False])])
        assert explored.any()
    else:  # the action of the following row; after a truncation the policy's, which is greedy here
        following = torch.cat([batch.action[1:], stream[-1].extras["next_action"]])
        following = torch.where(batch.truncated, next_q.argmax(-1), following)
        next_value = next_q.gather(-1, following.unsqueeze(-1)).squeeze(-1)
    assert batch.terminated.any()
    assert (batch.truncated & ~batch.terminated).any()
    returns = targets.lambda_returns(
        batch.reward.double(),
        batch.discount(GAMMA).double(),
        next_value.double(),
        done,
        agent.config.lambda_,
    )
    loss = -((returns - chosen.detach()) * chosen).sum()
    gradients = torch.autograd.grad(loss, agent.learner.flat.parameters)
    return torch.cat([g.reshape(-1) for g in gradients]).double()


@pytest.mark.parametrize("cls", AGENTS)
@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_over_episodes_the_steps_add_up_to_those_of_the_lambda_return(cls, lambda_, monkeypatch):
    agent, tasks = frozen(cls, lambda_)
    before, taken = agent.learner.flat.vector.clone(), along(agent, monkeypatch)
    streams: dict[int, list[Transition]] = {env: [] for env in range(ENVS)}
    for batch, _ in zip(batches(agent, tasks), range(STEPS * ENVS), strict=False):
        if cls is StreamSARSA and batch.truncated:  # what is drawn after a truncation is known
            with monkeypatch.context() as known:
                known.setattr("agents.sarsa.stream_sarsa.epsilon_greedy", greedy)
                agent.update(batch)
        else:
            agent.update(batch)
        streams[int(batch.extras["env"])].append(batch)
    assert agent.learner.flat.vector.equal(before)
    assert len(taken) == agent.learner.updates == STEPS * ENVS
    expected = torch.stack([forward_view(agent, stream) for stream in streams.values()]).sum(0)
    error = (torch.stack(taken).sum(0) - expected).norm() / expected.norm()
    assert error < 1e-5


@pytest.mark.parametrize("changes", [{}, {"network": {"dropout": 0.3}}, {"optim": HALF}], ids=str)
def test_a_trace_is_cut_at_no_greedy_action(changes, monkeypatch):
    """Neither dropout nor half precision, which are not acted with, makes another one the best."""
    agent, tasks = frozen(StreamQ, 0.8, **changes)
    with torch.no_grad():
        agent.network.heads["q"].bias.add_(100.0)  # next to it the actions differ by little
    decays = noted(agent, monkeypatch)
    greedy = []
    for batch, _ in zip(batches(agent, tasks), range(STEPS), strict=False):
        agent.update(batch)
        greedy.append(bool(agent.network(batch.obs)["q"].argmax(-1) == batch.action))
        assert (decays[-1] > 0) == (greedy[-1] and not batch.extras["first"])
    assert 0 < sum(greedy) < len(greedy)


def noted(agent: Any, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """By what the agent's traces decay from now on, step by step."""
    decays: list[float] = []
    step = agent.traces.step

    def note(env: int, delta: Tensor, decay: Tensor, aux: Any) -> Any:
        decays.append(float(decay))
        return step(env, delta, decay, aux)

    monkeypatch.setattr(agent.traces, "step", note)
    return decays


@pytest.mark.parametrize("cls", AGENTS)
@pytest.mark.parametrize("field", ["reward", "obs", "next_obs"])
def test_a_skipped_step_leaves_out_its_gradient_and_nothing_of_the_decay(cls, field, monkeypatch):
    """The trace goes on as if q(s, a) of the bad transition had had no gradient: it is cut where an
    episode begins, or where Watkins's Q(λ) cuts, whatever became of the transition there."""
    agent, tasks = frozen(cls, 0.8)
    decays = noted(agent, monkeypatch)
    first = cut = 0
    for t, batch in zip(range(200), batches(agent, tasks), strict=False):
        env = int(batch.extras["env"])
        before = agent.traces.by_env.get(env)
        if t % 3 == 0:
            batch = replace(batch, **{field: getattr(batch, field) * torch.nan})
        agent.update(batch)
        if t % 3 == 0 and before is not None:
            first, cut = first + bool(batch.extras["first"]), cut + (decays[-1] == 0)
            assert agent.traces.by_env[env].equal(decays[-1] * before)
            if batch.extras["first"]:
                assert not agent.traces.by_env[env].any()
    assert agent.learner.skipped == 67
    assert first >= 3
    assert cut > first or cls is StreamSARSA or field == "obs"


finite = st.floats(-5, 5, allow_subnormal=False)
vectors = st.lists(finite, min_size=4, max_size=4).map(lambda x: torch.tensor(x).double())


@given(x=vectors, next_x=vectors, w=vectors, trace=vectors, reward=finite, lr=st.floats(1e-3, 10))
@settings(max_examples=300)
def test_a_bounded_step_never_overshoots_linear_values(x, next_x, w, trace, reward, lr):
    """δ keeps its sign, and one over max(|δ|, 1) of it is taken away at the most."""

    def td_error(w: Tensor) -> Tensor:
        return reward + GAMMA * next_x @ w - x @ w

    kappa = max(float((x - GAMMA * next_x).abs().max()), 1e-3)
    delta = td_error(w)
    step = lr * delta * overshooting_bound(delta, trace, lr, kappa) * trace
    after = td_error(w + step)
    assert after * delta.sign() >= -1e-9
    taken = (delta - after) * delta.sign()
    assert taken <= min(abs(float(delta)), 1.0) + 1e-9


def test_the_bound_has_the_value_of_its_formula():
    delta, trace = torch.tensor(-3.0), torch.tensor([1.0, -2.0])
    assert overshooting_bound(delta, trace, lr=0.5, kappa=2.0).item() == pytest.approx(1 / 9)
    small = torch.tensor(0.1)  # an error below 1 counts as 1
    assert overshooting_bound(small, trace, lr=0.5, kappa=2.0).item() == pytest.approx(1 / 3)
    assert overshooting_bound(delta, trace, lr=0.01, kappa=2.0).item() == 1.0


@pytest.mark.parametrize("cls", AGENTS)
def test_a_step_is_that_of_obgd(cls, monkeypatch):
    """What is followed is δ z over M, with z and δ from the first transitions of an episode, and α
    from the middle of a schedule that begins at 1."""
    agent, tasks = frozen(cls, 0.8)
    agent.traces.kappa = 3.0
    agent.learner.config = replace(STILL, lr=1.0, schedule="linear")
    taken = along(agent, monkeypatch)
    batch = next(batches(agent, tasks))
    agent.plan(2 * agent.steps)
    assert agent.learner.lr == 0.5
    q = agent.network(torch.cat([batch.obs, batch.next_obs]))["q"]
    chosen = q[0, int(batch.action)]
    gradients = torch.autograd.grad(chosen, agent.learner.flat.parameters)
    trace = torch.cat([g.reshape(-1) for g in gradients])
    next_q = q[1].max() if cls is StreamQ else q[1, int(batch.extras["next_action"])]
    delta = (batch.reward[0] + GAMMA * next_q - chosen).item()
    bound = 0.5 * 3.0 * max(abs(delta), 1.0) * float(trace.abs().sum())
    assert bound > 1
    before = agent.learner.flat.vector.clone()
    agent.update(batch)
    expected = delta * trace / bound
    torch.testing.assert_close(taken[0], -expected.double())
    torch.testing.assert_close(
        agent.learner.flat.vector - before, 0.5 * expected, atol=1e-6, rtol=0
    )


def test_stream_sarsa_draws_by_boltzmann_what_it_does_and_what_it_would_have_done():
    """In a state, and after a truncation, with the frequencies of exp(Q / temperature)."""
    _, tasks = frozen(StreamSARSA, 0.8)
    spaces = tasks.observation_space, tasks.action_space
    settings = StreamSARSAConfig(exploration="boltzmann", temperature=0.5, normalize_obs=False)
    agent: Any = StreamSARSA(*spaces, replace(settings, normalize_reward=False), seed=1)
    with torch.no_grad():
        agent.network.heads["q"].bias.copy_(torch.tensor([0.0, 0.4]))
    obs = np.zeros((4000, 4), np.float32)
    q = agent.network(torch.from_numpy(obs[:1]))["q"].detach()
    wanted = float((q / 0.5).softmax(-1)[0, 1])
    assert 0.55 < wanted < 0.95
    assert agent.act(obs, explore=True).mean() == pytest.approx(wanted, abs=0.03)
    assert agent.act(obs).mean() == 1.0
    batch = replace(next(batches(agent, tasks)), truncated=torch.tensor([True]))
    targets = [float(agent.td_target(batch, torch.tensor([[0.0, 0.4]]))) for _ in range(4000)]
    share = np.mean(np.array(targets) > float(batch.reward) + 0.1)
    assert share == pytest.approx(np.exp(0.8) / (1 + np.exp(0.8)), abs=0.03)


@pytest.mark.parametrize("cls", [StreamQConfig, StreamSARSAConfig])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optim": OptimConfig("sgd", l2=1e-4)}, r"optim\.weight_decay"),
        ({"optim": OptimConfig("adam")}, "kappa is 2.0.*adam"),
        ({"optim": OptimConfig("sgd", momentum=0.9)}, "kappa is 2.0.*momentum"),
        ({"kappa": 0.0}, "kappa is 0.0: use a positive number"),
        ({"lambda_": 1.5}, r"lambda_ is 1.5: use a number in \[0, 1\]"),
    ],
)
def test_settings_that_make_no_sense_along_a_trace_are_refused(cls, settings, said):
    with pytest.raises(ValueError, match=said):
        cls(**settings)
