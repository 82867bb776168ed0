"""Targets against sums along each trajectory, and against each other where they must agree."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from agents import targets
from envs.transition import Transition

LAMBDAS = st.sampled_from([0.0, 0.3, 0.95, 1.0])
many = settings(max_examples=60)
same = torch.testing.assert_close


class Data(NamedTuple):
    """A rollout `(T, N)` of any pattern of ends; after some, a row in which the env only resets."""

    batch: Transition
    gamma: float
    value: Tensor
    next_value: Tensor

    @property
    def discount(self) -> Tensor:
        return self.batch.discount(self.gamma).double()

    @property
    def rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.batch.reward, self.discount, self.next_value, self.batch.done


@st.composite
def rollouts(draw: Any) -> Data:
    steps, envs = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    terminated = rng.random((steps, envs)) < draw(st.sampled_from([0.0, 0.1, 0.4, 1.0]))
    truncated = rng.random((steps, envs)) < draw(st.sampled_from([0.0, 0.1, 0.4]))
    valid = np.ones((steps, envs), bool)
    if draw(st.booleans()):  # as of a vector env that resets on the next step
        for t in range(1, steps):
            valid[t] = ~((terminated | truncated)[t - 1] & valid[t - 1])
        terminated, truncated = terminated & valid, truncated & valid
    reward, value, next_value = rng.standard_normal((3, steps, envs))
    names = ("reward", "terminated", "truncated", "valid")
    arrays = (reward, terminated, truncated, valid)
    tensors: Any = dict(zip(names, map(torch.from_numpy, arrays), strict=True))
    batch = Transition(obs=None, action=None, next_obs=None, **tensors)
    gamma = draw(st.sampled_from([0.0, 0.5, 63 / 64, 1.0]))  # exact in the discount's float32
    return Data(batch, gamma, torch.from_numpy(value), torch.from_numpy(next_value))


def n_step(data: Data, t: int, i: int, n: int) -> float:
    """Σ γᵏ r_{t+k} over n steps or to the episode's or the data's end, and what is beyond."""
    batch, total, weight = data.batch, 0.0, 1.0
    last = len(batch.reward) - 1
    for k in range(t, t + n):
        total += weight * batch.reward[k, i].item()
        weight *= data.gamma
        if batch.terminated[k, i]:
            return total
        if batch.truncated[k, i] or k == last:
            break
    return total + weight * data.next_value[k, i].item()


def rest(data: Data, t: int, i: int) -> int:
    """Steps from t to the episode's or the data's end."""
    ends = data.batch.done[t:, i].nonzero()
    return int(ends[0]) + 1 if len(ends) else len(data.batch.reward) - t


def compare(data: Data, result: Tensor, oracle: Any) -> None:
    """Wherever there is a transition; nothing is promised of the other rows."""
    assert result.shape == data.batch.reward.shape
    for t, i in data.batch.valid.nonzero().tolist():
        assert result[t, i].item() == pytest.approx(oracle(t, i), rel=1e-9, abs=1e-9)


# Against sums along each trajectory -------------------------------------------------------------


@given(data=rollouts())
@many
def test_discounted_returns_are_sums_of_rewards_to_the_end(data: Data):
    result = targets.discounted_returns(*data.rows)
    compare(data, result, lambda t, i: n_step(data, t, i, rest(data, t, i)))


@given(data=rollouts(), n=st.integers(1, 15))
@many
def test_n_step_returns_are_sums_of_n_rewards_and_a_value(data: Data, n: int):
    compare(data, targets.n_step_returns(*data.rows, n), lambda t, i: n_step(data, t, i, n))


def mixture(data: Data, t: int, i: int, lambda_: float) -> float:
    """(1-λ) Σ λⁿ⁻¹ G⁽ⁿ⁾ + λᴴ⁻¹ G⁽ᴴ⁾ with H steps to the end (Sutton & Barto 2018, eq. 12.3)."""
    horizon = rest(data, t, i)
    shares = [(1 - lambda_) * lambda_**n for n in range(horizon - 1)] + [lambda_ ** (horizon - 1)]
    return sum(share * n_step(data, t, i, n + 1) for n, share in enumerate(shares))


@given(data=rollouts(), lambda_=LAMBDAS)
@many
def test_lambda_returns_are_mixtures_of_n_step_returns(data: Data, lambda_: float):
    result = targets.lambda_returns(*data.rows, lambda_)
    compare(data, result, lambda t, i: mixture(data, t, i, lambda_))


@given(data=rollouts(), lambda_=LAMBDAS)
@many
def test_generalised_advantages_are_discounted_sums_of_td_errors(data: Data, lambda_: float):
    reward, discount, next_value, done = data.rows
    result = targets.gae(reward, discount, data.value, next_value, done, lambda_)

    def oracle(t: int, i: int) -> float:
        total = 0.0
        for k in range(rest(data, t, i)):
            ahead = 0.0 if data.batch.terminated[t + k, i] else data.gamma * next_value[t + k, i]
            delta = reward[t + k, i] + ahead - data.value[t + k, i]
            total += (data.gamma * lambda_) ** k * float(delta)
        return total

    compare(data, result, oracle)


# Where they must agree --------------------------------------------------------------------------


@given(data=rollouts(), lambda_=LAMBDAS)
@many
def test_reductions(data: Data, lambda_: float):
    reward, discount, next_value, done = rows = data.rows
    one_step = reward + discount * next_value
    torch.testing.assert_close(targets.lambda_returns(*rows, 0.0), one_step)
    torch.testing.assert_close(targets.n_step_returns(*rows, 1), one_step)
    full = targets.discounted_returns(*rows)
    torch.testing.assert_close(targets.lambda_returns(*rows, 1.0), full)
    torch.testing.assert_close(targets.n_step_returns(*rows, len(reward)), full)
    torch.testing.assert_close(targets.n_step_returns(*rows, 10**9), full)
    if len(reward) > 1:  # one critic: within an episode the next row's value is the successor's
        next_value = torch.cat(
            [torch.where(done, next_value, data.value.roll(-1, 0))[:-1], next_value[-1:]]
        )
    advantage = targets.gae(reward, discount, data.value, next_value, done, lambda_)
    returns = targets.lambda_returns(reward, discount, next_value, done, lambda_)
    torch.testing.assert_close(advantage + data.value, returns)


@given(data=rollouts(), lambda_=LAMBDAS, n=st.integers(1, 5))
@many
def test_environments_and_episodes_do_not_touch_each_other(data: Data, lambda_: float, n: int):
    """Other data in other columns, after an end or in rows that are no transition: no change."""

    def everything(data: Data) -> list[Tensor]:
        reward, discount, next_value, done = rows = data.rows
        return [
            targets.lambda_returns(*rows, lambda_),
            targets.n_step_returns(*rows, n),
            targets.gae(reward, discount, data.value, next_value, done, lambda_),
        ]

    batch = data.batch
    kept = batch.valid.clone()
    kept[:, 1:] = False
    ends = batch.done[:, 0].nonzero()
    if len(ends):
        kept[int(ends[0]) + 1 :] = False
    changed = [torch.where(kept, x, x + 100.0) for x in (batch.reward, data.value, data.next_value)]
    other = data._replace(
        batch=Transition(
            None, None, changed[0], None, batch.terminated, batch.truncated, batch.valid
        ),
        value=changed[1],
        next_value=changed[2],
    )
    for a, b in zip(everything(data), everything(other), strict=True):
        torch.testing.assert_close(a[kept], b[kept])


# One step of Q ----------------------------------------------------------------------------------


@st.composite
def q_values(draw: Any) -> dict[str, Tensor]:
    lead = tuple(draw(st.lists(st.integers(1, 4), max_size=2)))
    actions = draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    terminated = torch.rand(lead, generator=generator) < 0.3
    return {
        "reward": normal(*lead),
        "discount": 0.9 * ~terminated,
        "next_q": normal(*lead, actions),
        "selector_q": normal(*lead, actions),
        "next_action": torch.randint(actions, lead, generator=generator),
    }


def by_row(q: dict[str, Tensor], next_value: Any) -> Tensor:
    """r + γ f(row) for each row, and r after a termination, in a plain loop."""
    flat = {name: x.reshape(-1, *x.shape[q["reward"].ndim :]) for name, x in q.items()}
    values = [
        row["reward"] + (row["discount"] * next_value(row) if row["discount"] > 0 else 0.0)
        for row in ({name: x[i] for name, x in flat.items()} for i in range(len(flat["reward"])))
    ]
    return torch.stack(values).reshape(q["reward"].shape)


@given(q=q_values())
@many
def test_one_step_targets_are_those_of_a_plain_loop(q):
    lead = q["reward"], q["discount"]
    probability = q["selector_q"].softmax(-1)
    for result, next_value in (
        (targets.q_learning(*lead, q["next_q"]), lambda row: max(row["next_q"])),
        (
            targets.double_q_learning(*lead, q["next_q"], q["selector_q"]),
            lambda row: max(zip(row["selector_q"], row["next_q"], strict=True))[1],
        ),
        (
            targets.sarsa(*lead, q["next_q"], q["next_action"]),
            lambda row: row["next_q"][row["next_action"]],
        ),
        (
            targets.expected_sarsa(*lead, q["next_q"], probability),
            lambda row: row["next_q"] @ row["selector_q"].softmax(-1),
        ),
    ):
        torch.testing.assert_close(result, by_row(q, next_value))


@given(q=q_values(), epsilon=st.sampled_from([0.0, 0.1, 1.0]))
@many
def test_reductions_of_one_step_targets(q, epsilon):
    lead, next_q, actions = (q["reward"], q["discount"]), q["next_q"], q["next_q"].shape[-1]
    best = targets.q_learning(*lead, next_q)
    greedy = torch.nn.functional.one_hot(next_q.argmax(-1), actions).float()
    same(targets.expected_sarsa(*lead, next_q, greedy), best)
    same(targets.sarsa(*lead, next_q, next_q.argmax(-1)), best)
    same(targets.double_q_learning(*lead, next_q, next_q), best)
    chosen = torch.nn.functional.one_hot(q["next_action"], actions).float()
    same(
        targets.expected_sarsa(*lead, next_q, chosen),
        targets.sarsa(*lead, next_q, q["next_action"]),
    )
    assert (targets.double_q_learning(*lead, next_q, q["selector_q"]) <= best + 1e-6).all()
    mixed = (1 - epsilon) * greedy + epsilon / actions
    uniform = q["reward"] + q["discount"] * next_q.mean(-1)
    same(targets.expected_sarsa(*lead, next_q, mixed), (1 - epsilon) * best + epsilon * uniform)


@given(data=rollouts(), lambda_=LAMBDAS)
@many
def test_sarsa_lambda_over_one_step_is_sarsa(data: Data, lambda_: float):
    reward, discount, next_value, _ = data.rows
    next_q = torch.stack([next_value, next_value + 1.0], -1)
    target = targets.sarsa(reward, discount, next_q, torch.zeros_like(reward, dtype=torch.long))
    everywhere = torch.ones_like(data.batch.done)
    for result in (
        targets.lambda_returns(reward, discount, next_value, everywhere, lambda_),
        targets.lambda_returns(*data.rows, 0.0),
    ):
        torch.testing.assert_close(result, target)


# Over several steps of Q -------------------------------------------------------------------------


class Walk(NamedTuple):
    """One stream of experience `(T,)` in a few states, under a table of Q `(S, A)`."""

    batch: Transition
    q: Tensor
    next_action: Tensor
    gamma: float
    policy: Tensor
    """π(a|s) of some policy, `(S, A)`."""

    def next_values(self, kind: str) -> Tensor:
        """What the target function is given, `(T,)`."""
        next_q = self.q[self.batch.next_obs]
        return {
            "sarsa": targets.action_value(next_q, self.next_action),
            "expected": targets.expected_value(next_q, self.policy[self.batch.next_obs]),
            "peng": next_q.amax(-1),
            "watkins": next_q.amax(-1),
        }[kind]

    def returns(self, kind: str, lambda_: float) -> Tensor:
        batch, next_q = self.batch, self.q[self.batch.next_obs]
        cut = batch.done
        if kind == "watkins":
            cut = targets.watkins_cut(batch.done, next_q, self.next_action)
        discount = batch.discount(self.gamma).double()
        return targets.lambda_returns(batch.reward, discount, self.next_values(kind), cut, lambda_)


KINDS = ("sarsa", "expected", "peng", "watkins")


@st.composite
def walks(draw: Any) -> Walk:
    steps, states, actions = draw(st.integers(1, 15)), draw(st.integers(1, 4)), 3
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    terminated = rng.random(steps) < draw(st.sampled_from([0.0, 0.2]))
    truncated = (rng.random(steps) < draw(st.sampled_from([0.0, 0.2]))) & ~terminated
    q = rng.standard_normal((states, actions))
    if draw(st.booleans()):
        q = q.round()  # some are equal: each of these is greedy
    obs, action = rng.integers(states, size=steps), rng.integers(actions, size=steps)
    goes_on = ~(terminated | truncated)[:-1]
    next_obs = np.append(
        np.where(goes_on, obs[1:], rng.integers(states, size=steps - 1)), rng.integers(states)
    )
    arrays = (obs, action, rng.standard_normal(steps), next_obs, terminated, truncated)
    tensors: Any = (*map(torch.from_numpy, arrays), torch.ones(steps, dtype=torch.bool))
    batch = Transition(*tensors)
    following = rng.integers(actions, size=steps)  # where an end or the data's end comes: drawn
    following[:-1] = np.where(goes_on, action[1:], following[:-1])
    return Walk(
        batch,
        torch.from_numpy(q),
        torch.from_numpy(following),
        draw(st.sampled_from([0.5, 63 / 64, 1.0])),
        torch.from_numpy(rng.dirichlet(np.ones(actions), states)),
    )


def backward_view(walk: Walk, kind: str, lambda_: float) -> Tensor:
    """The change of the table by eligibility traces over the whole stream at rate 1, `(S, A)`.

    Peng & Williams 1996: what is seen of the present pair is r + γ v(s') - Q(s, a), what is handed
    back to the pairs before it r + γ v(s') - v(s). The traces are e ← γλ e, and 1 more for (s, a).
    """
    q, batch, change = walk.q, walk.batch, torch.zeros_like(walk.q)
    trace, continues = torch.zeros_like(q), False

    def value(state: int, action: int) -> float:
        if kind == "sarsa":
            return float(q[state, action])
        if kind == "expected":
            return float(q[state] @ walk.policy[state])
        return float(q[state].max())

    for t in range(len(batch.reward)):
        s, a, s2 = (int(x[t]) for x in (batch.obs, batch.action, batch.next_obs))
        if not continues:
            trace = torch.zeros_like(q)
        ahead = 0.0 if batch.terminated[t] else walk.gamma * value(s2, int(walk.next_action[t]))
        target = float(batch.reward[t]) + ahead
        trace = trace * walk.gamma * lambda_
        change += trace * (target - value(s, a))
        change[s, a] += target - float(q[s, a])
        trace[s, a] += 1.0
        continues = not (batch.terminated[t] or batch.truncated[t])
        if kind == "watkins" and q[s2, walk.next_action[t]] != q[s2].max():
            continues = False
    return change


@given(walk=walks(), lambda_=LAMBDAS)
@many
@pytest.mark.parametrize("kind", KINDS)
def test_the_returns_of_q_change_a_table_as_eligibility_traces_do(kind, walk, lambda_):
    """The forward and the backward view agree over a stream (Sutton & Barto 2018, chapter 12)."""
    batch = walk.batch
    error = walk.returns(kind, lambda_) - walk.q[batch.obs, batch.action]
    change = torch.zeros_like(walk.q).index_put((batch.obs, batch.action), error, accumulate=True)
    torch.testing.assert_close(change, backward_view(walk, kind, lambda_), rtol=1e-9, atol=1e-9)


@given(walk=walks(), lambda_=LAMBDAS)
@many
def test_reductions_of_the_returns_of_q(walk: Walk, lambda_: float):
    batch = walk.batch
    next_q, discount = walk.q[batch.next_obs], batch.discount(walk.gamma).double()
    lead = batch.reward, discount
    one_step = {
        "sarsa": targets.sarsa(*lead, next_q, walk.next_action),
        "expected": targets.expected_sarsa(*lead, next_q, walk.policy[batch.next_obs]),
        "peng": targets.q_learning(*lead, next_q),
        "watkins": targets.q_learning(*lead, next_q),
    }
    for kind, target in one_step.items():
        same(walk.returns(kind, 0.0), target)
        rows = *lead, walk.next_values(kind), batch.done
        same(targets.n_step_returns(*rows, 1), target)
        full = targets.discounted_returns(*rows)
        same(targets.n_step_returns(*rows, len(batch.reward)), full)
        if kind != "watkins":
            same(walk.returns(kind, 1.0), full)
    # A greedy policy's expected SARSA(λ) is Q(λ), as is SARSA(λ) of greedy actions; nothing is cut.
    best = walk.q.argmax(-1)
    greedy = walk._replace(
        policy=torch.nn.functional.one_hot(best, walk.q.shape[-1]).double(),
        next_action=best[batch.next_obs],
    )
    peng = walk.returns("peng", lambda_)
    for kind in KINDS:
        same(greedy.returns(kind, lambda_), peng)
    # A policy that has taken the actions for certain is valued by SARSA(λ).
    taken = torch.nn.functional.one_hot(walk.next_action, walk.q.shape[-1]).double()
    rows = *lead, targets.expected_value(next_q, taken), batch.done
    same(targets.lambda_returns(*rows, lambda_), walk.returns("sarsa", lambda_))


def test_watkins_cuts_where_the_next_action_is_worse_than_another():
    next_q = torch.tensor([[1.0, 2.0, 2.0], [1.0, 2.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    next_action, done = torch.tensor([2, 0, 0, 2]), torch.tensor([False, False, False, True])
    cut = targets.watkins_cut(done, next_q, next_action)
    assert cut.tolist() == [False, True, False, True]


# Distributions and soft maxima -------------------------------------------------------------------


def distribution(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(shape, generator=generator, dtype=dtype)).softmax(-1)


def projection(reward, discount, probability, low, high):
    """Algorithm 1 of Bellemare et al. 2017, atom by atom, b_j = (T z_j - V_min) / Δz."""
    projected = np.zeros_like(probability)
    atoms = probability.shape[1]
    gap = (high - low) / (atoms - 1)
    for i in range(len(reward)):
        for j in range(atoms):
            moved = min(max(reward[i] + discount[i] * (low + j * gap), low), high)
            b = (moved - low) / gap
            lower, upper = math.floor(b), math.ceil(b)
            if lower == upper:  # on an atom, which the paper's two lines would give nothing
                projected[i, lower] += probability[i, j]
                continue
            projected[i, lower] += probability[i, j] * (upper - b)
            projected[i, upper] += probability[i, j] * (b - lower)
    return projected


@given(
    atoms=st.sampled_from([2, 3, 11, 51]),
    support=st.sampled_from([(-10.0, 10.0), (0.0, 100.0), (-2.0, 1.0)]),
    seed=st.integers(0, 2**31),
)
@many
def test_the_projection_is_the_papers_and_keeps_the_mass(atoms, support, seed):
    low, high = support
    rng = np.random.default_rng(seed)
    reward = rng.uniform(1.5 * low - 1, 1.5 * high + 1, 8).astype(np.float32)
    reward[:3] = low, high, 0.0
    discount = rng.choice([0.0, 0.9, 0.99**3, 1.0], 8).astype(np.float32)
    probability = distribution(8, atoms, seed=seed)
    result = targets.categorical(
        torch.from_numpy(reward),
        torch.from_numpy(discount),
        probability,
        torch.linspace(low, high, atoms),
    )
    r, d, p = (x.astype(np.float64) for x in (reward, discount, probability.numpy()))
    np.testing.assert_allclose(result, projection(r, d, p, low, high), rtol=0, atol=1e-5)
    assert (result >= 0).all()
    same(result.sum(-1), torch.ones(8))


def test_the_projection_keeps_the_mean_of_what_stays_inside_the_support():
    support = torch.linspace(-10, 10, 51)
    probability = distribution(20, 51)
    reward, discount = torch.linspace(-1, 1, 20), torch.full((20,), 0.9)
    result = targets.categorical(reward, discount, probability, support)
    same(result @ support, reward + 0.9 * (probability @ support))
    ended = targets.categorical(reward, torch.zeros(20), probability, support)
    same(ended @ support, reward, rtol=0.0, atol=1e-5)
    assert ((ended > 1e-6).sum(-1) <= 2).all()  # a number lies between two atoms


def test_the_projection_changes_nothing_where_nothing_moves():
    support, probability = torch.linspace(-3, 3, 13), distribution(4, 13)
    same(targets.categorical(torch.zeros(4), torch.ones(4), probability, support), probability)


SUPPORT = torch.linspace(-5, 5, 41, dtype=torch.float64)


def test_hl_gauss_is_a_normal_distribution_within_the_bins():
    value = torch.linspace(-5, 5, 23, dtype=torch.float64)
    edges = np.linspace(-5.125, 5.125, 42)
    for sigma in (0.05, 0.1875, 2.0):
        cut = stats.truncnorm(
            (edges[0] - value[:, None]) / sigma,
            (edges[-1] - value[:, None]) / sigma,
            value[:, None],
            sigma,
        )
        result = targets.hl_gauss(value, SUPPORT, sigma)
        np.testing.assert_allclose(result, np.diff(cut.cdf(edges)), rtol=0, atol=1e-12)
        same(result.sum(-1), torch.ones_like(value))


def test_hl_gauss_has_its_value_for_a_mean_away_from_the_ends():
    value = torch.linspace(-4, 4, 101, dtype=torch.float64)
    result = targets.hl_gauss(value, SUPPORT, 0.75 * 0.25)
    same(result @ SUPPORT, value, rtol=0.0, atol=1e-3)
    beyond = targets.hl_gauss(torch.tensor([-50.0, 50.0], dtype=torch.float64), SUPPORT, 0.1875)
    ends = targets.hl_gauss(SUPPORT[[0, -1]], SUPPORT, 0.1875)
    same(beyond, ends)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_does_not_become_an_end_of_the_support(bad):
    reward = torch.tensor([0.0, bad, 1.0])
    projected = targets.categorical(
        reward, torch.ones(3), distribution(3, 11), SUPPORT[::4].float()
    )
    smeared = targets.hl_gauss(reward, SUPPORT.float(), 0.2)
    for result in (projected, smeared):
        assert result.isfinite().all(-1).tolist() == [True, False, True]
        assert result.sum().isnan()


def test_quantile_middles_are_at_the_middles():
    same(targets.quantile_middles(4), torch.tensor([0.125, 0.375, 0.625, 0.875]))
    same(targets.quantile_middles(1), torch.tensor([0.5]))


def q_table(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, next_q = torch.randn((2, 6, 4), generator=generator, dtype=torch.float64)
    reward = torch.randn(6, generator=generator, dtype=torch.float64)
    action = torch.randint(4, (6,), generator=generator)
    return reward, torch.tensor([0.9, 0.9, 0.0, 0.9, 1.0, 0.9]).double(), q, action, next_q


@pytest.mark.parametrize("temperature", [0.03, 0.5])
@pytest.mark.parametrize("share", [0.0, 0.9])
@pytest.mark.parametrize("floor", [-1.0, -0.1])
def test_munchausen_is_equation_1_of_the_paper(temperature, share, floor):
    reward, discount, q, action, next_q = data = q_table(1)
    r, g, value, a, next_value = (x.numpy() for x in data)

    def log_policy(q):
        return np.log(np.exp(q / temperature) / np.exp(q / temperature).sum())

    expected = []
    for i in range(len(r)):
        bonus = min(max(temperature * log_policy(value[i])[a[i]], floor), 0.0)
        log_pi = log_policy(next_value[i])
        soft = sum(
            math.exp(p) * (v - temperature * p) for p, v in zip(log_pi, next_value[i], strict=True)
        )
        expected.append(r[i] + share * bonus + g[i] * soft)
    result = targets.munchausen(reward, discount, q, action, next_q, temperature, share, floor)
    np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_munchausen_without_a_share_is_soft_q_learning_and_cold_q_learning():
    reward, discount, q, action, next_q = q_table(2)

    def without_share(temperature):
        return targets.munchausen(reward, discount, q, action, next_q, temperature, share=0.0)

    log_sum = 0.3 * torch.logsumexp(next_q / 0.3, -1)  # the soft maximum
    same(without_share(0.3), reward + discount * log_sum)
    cold = targets.q_learning(reward, discount, next_q)
    same(without_share(1e-6), cold, rtol=0.0, atol=1e-5)
    best = targets.munchausen(reward, discount, q, q.argmax(-1), next_q, 1e-6)
    same(best, cold, rtol=0.0, atol=1e-5)  # nothing is taken off for the best action
    worst = targets.munchausen(reward, discount, q, q.argmin(-1), next_q, 1e-6, floor=-0.01)
    same(worst, cold - 0.9 * 0.01, rtol=0.0, atol=1e-5)


# What is refused --------------------------------------------------------------------------------

B, B1, BA = torch.zeros(4), torch.zeros(4, 1), torch.zeros(4, 3)
NEVER = torch.zeros(4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (targets.lambda_returns, (B, B, B1, NEVER, 0.9)),
        (targets.lambda_returns, (B, B, B, NEVER[:, None], 0.9)),
        (targets.discounted_returns, (B1, B, B, NEVER)),
        (targets.n_step_returns, (B, B1, B, NEVER, 2)),
        (targets.gae, (B, B, B1, B, NEVER, 0.9)),
        (targets.q_learning, (B1, B, BA)),
        (targets.double_q_learning, (B, B, BA, BA[:, :2])),
        (targets.sarsa, (B1, B1, BA, B.long())),
        (targets.expected_sarsa, (B, B, BA, BA[0])),
    ],
)
def test_shapes_that_would_broadcast_are_refused(function, arguments):
    with pytest.raises(ValueError, match=r"shapes must be equal: .*, "):
        function(*arguments)


@pytest.mark.parametrize("n", [0, -1])
def test_n_step_returns_need_a_step(n):
    with pytest.raises(ValueError, match=f"n is {n}"):
        targets.n_step_returns(B, B, B, NEVER, n)


def test_of_all_critics_quantiles_together_the_highest_are_left_out():
    quantiles = torch.tensor([[[3.0, 1.0, 7.0]], [[2.0, 9.0, 0.0]]])  # (2, 1, 3)
    assert targets.truncated_quantiles(quantiles, 1).tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert targets.truncated_quantiles(quantiles, 2).tolist() == [[0.0, 1.0]]
    drawn = torch.randn(5, 40, 7)
    same(targets.truncated_quantiles(drawn, 0).mean(-1), drawn.mean((0, 2)))
    means = [targets.truncated_quantiles(drawn, d).mean(-1) for d in range(7)]
    assert (torch.stack(means).diff(dim=0) < 0).all()  # the more are left out, the lower
