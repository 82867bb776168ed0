"""What values and advantages are regressed on: pure functions of tensors.

Time runs along the first axis: rewards, values and flags are `(T, N)` or any `(T, ...)`. Two
quantities end what lies ahead, and they are not the same:

- `discount` is γ, or 0 after a termination. It multiplies the value of the true successor.
- `done` is true after a termination *or* a truncation. It cuts a trace: the next row belongs to
  another episode. After a truncation the value of the successor stands in for the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(
    reward: Tensor, discount: Tensor, next_value: Tensor, done: Tensor, lambda_: float
) -> Tensor:
    """G_t = r_t + γ_t [(1-λ) v(s_{t+1}) + λ G_{t+1}], `(T, ...)` (Sutton & Barto 2018, eq. 12.18).

    λ = 0 gives one-step targets, λ = 1 discounted returns bootstrapped where the data ends. At a
    `done` row and at the last one G is r + γ v(s').

    What `next_value` is makes the algorithm, here as in `n_step_returns`: the state value (TD(λ)),
    Q of the action taken next (SARSA(λ)), Q's expectation over the policy (expected SARSA(λ)), its
    maximum (Q(λ): Peng's with `done` as it is, Watkins's with `watkins_cut`).
    """
    _same_shape(reward=reward, discount=discount, next_value=next_value, done=done)
    carried = discount * lambda_ * ~done
    base = reward + (discount - carried) * next_value
    last = reward[-1] + discount[-1] * next_value[-1]
    return _backwards(base, carried, last)


def discounted_returns(
    reward: Tensor, discount: Tensor, next_value: Tensor, done: Tensor
) -> Tensor:
    """G_t = r_t + γ r_{t+1} + γ² r_{t+2} …, `(T, ...)`: the λ-return with λ = 1.

    Beyond a truncation and the end of the data stands `next_value`.
    """
    return lambda_returns(reward, discount, next_value, done, 1.0)


def gae(
    reward: Tensor,
    discount: Tensor,
    value: Tensor,
    next_value: Tensor,
    done: Tensor,
    lambda_: float,
) -> Tensor:
    """Generalised advantages A_t = δ_t + γ_t λ A_{t+1} with δ_t = r_t + γ_t v(s_{t+1}) - v(s_t).

    `(T, ...)` (Schulman et al. 2016, eq. 16). A + v is the λ-return.
    """
    _same_shape(reward=reward, discount=discount, value=value, next_value=next_value, done=done)
    delta = reward + discount * next_value - value
    return _backwards(delta, discount * lambda_ * ~done, delta[-1])


def n_step_returns(
    reward: Tensor, discount: Tensor, next_value: Tensor, done: Tensor, n: int
) -> Tensor:
    """r_t + γ r_{t+1} + … + γⁿ v(s_{t+n}), `(T, ...)` (Sutton & Barto 2018, eq. 7.1).

    Fewer than n rewards where the episode or the data ends before. n = 1 gives one-step targets,
    n = T the discounted returns.
    """
    _same_shape(reward=reward, discount=discount, next_value=next_value, done=done)
    if n < 1:
        raise ValueError(f"n is {n}: an n-step return needs 1 or more")
    returns = reward + discount * next_value
    for _ in range(min(n, len(reward)) - 1):
        ahead = reward[:-1] + discount[:-1] * returns[1:]
        cut = torch.where(done[:-1], reward[:-1] + discount[:-1] * next_value[:-1], ahead)
        returns = torch.cat([cut, returns[-1:]])
    return returns


def action_value(q: Tensor, action: Tensor) -> Tensor:
    """Q(s, a), `(...,)`, from Q `(..., A)` and actions `(...,)`."""
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def expected_value(q: Tensor, probability: Tensor) -> Tensor:
    """Σ_a π(a|s) Q(s, a), `(...,)`, from Q and π `(..., A)`."""
    _same_shape(q=q, probability=probability)
    return (probability * q).sum(-1)


def watkins_cut(done: Tensor, next_q: Tensor, next_action: Tensor) -> Tensor:
    """Where Watkins's Q(λ) cuts a trace, `(T, ...)`, from Q(s', ·) `(T, ..., A)` and a' `(T, ...)`.

    At every end, and where the action a' taken next is not a greedy one: what it leads to says
    nothing of the greedy policy. To be given to `lambda_returns` for `done` (Watkins 1989; Sutton &
    Barto 2018, section 12.10). Peng's Q(λ) goes on through such actions (Peng & Williams 1996).
    """
    return done | (action_value(next_q, next_action) < next_q.amax(-1))


def q_learning(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """r + γ max_a Q(s', a), `(...,)`, from Q `(..., A)` (Watkins 1989)."""
    return _one_step(reward, discount, next_q.amax(-1))


def double_q_learning(
    reward: Tensor, discount: Tensor, next_q: Tensor, selector_q: Tensor
) -> Tensor:
    """r + γ Q(s', argmax_a Q'(s', a)), `(...,)` (van Hasselt et al. 2016).

    `selector_q` (the online network's) chooses the action, `next_q` (the target's) values it.
    """
    _same_shape(next_q=next_q, selector_q=selector_q)
    return _one_step(reward, discount, action_value(next_q, selector_q.argmax(-1)))


def sarsa(reward: Tensor, discount: Tensor, next_q: Tensor, next_action: Tensor) -> Tensor:
    """r + γ Q(s', a') with the action a' really taken next, `(...,)` (Rummery & Niranjan 1994)."""
    return _one_step(reward, discount, action_value(next_q, next_action))


def expected_sarsa(
    reward: Tensor, discount: Tensor, next_q: Tensor, next_probability: Tensor
) -> Tensor:
    """r + γ Σ_a π(a|s') Q(s', a), `(...,)` (van Seijen et al. 2009)."""
    return _one_step(reward, discount, expected_value(next_q, next_probability))


def munchausen(
    reward: Tensor,
    discount: Tensor,
    q: Tensor,
    action: Tensor,
    next_q: Tensor,
    temperature: float = 0.03,
    share: float = 0.9,
    floor: float = -1.0,
) -> Tensor:
    """r + α [τ log π(a|s)] + γ Σ_a' π(a'|s') (Q(s', a') - τ log π(a'|s')), `(...,)`.

    π = softmax(Q / τ) for Q `(..., A)` of the target network; the bracket lies between `floor` and
    0 (Vieillard et al. 2020, eq. 1). With α (`share`) 0 it is soft Q-learning, and with τ → 0 then
    Q-learning.
    """
    log_prob = torch.log_softmax(q / temperature, -1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
    bonus = share * (temperature * log_prob).clamp(floor, 0.0)
    next_log_prob = torch.log_softmax(next_q / temperature, -1)
    soft = (next_log_prob.exp() * (next_q - temperature * next_log_prob)).sum(-1)
    return _one_step(reward + bonus, discount, soft)


def categorical(reward: Tensor, discount: Tensor, probability: Tensor, support: Tensor) -> Tensor:
    """The distribution of r + γ Z on the support of Z, `(B, n)` (Bellemare et al. 2017, alg. 1).

    Z has `probability` `(B, n)` on the evenly spaced `support` `(n,)`. What falls between two atoms
    is shared between them by nearness, what falls beyond the ends goes to them. A reward that is
    not finite has no place there, and gives NaN.
    """
    low, high, gap = support[0], support[-1], support[1] - support[0]
    moved = _finite(reward.unsqueeze(-1) + discount.unsqueeze(-1) * support).clamp(low, high)
    # (B, n to, n from): each moved atom gives 1 - distance, in gaps, to those less than one away
    near = 1.0 - (moved.unsqueeze(-2) - support.unsqueeze(-1)).abs() / gap
    return (near.clamp(min=0.0) * probability.unsqueeze(-2)).sum(-1)


def hl_gauss(value: Tensor, support: Tensor, sigma: float) -> Tensor:
    """A normal distribution around values `(B,)` as probabilities of bins, `(B, n)`.

    The bins have the evenly spaced `support` `(n,)` for middles; what lies beyond the first and the
    last is cut off (Imani & White 2018; Farebrother et al. 2024, "Stop regressing"). A value that
    is not finite gives NaN.
    """
    half = 0.5 * (support[1] - support[0])
    edges = torch.cat([support - half, support[-1:] + half])
    inside = _finite(value).clamp(support[0], support[-1]).unsqueeze(-1)
    mass = torch.special.ndtr((edges - inside) / sigma)
    return mass.diff(dim=-1) / (mass[..., -1:] - mass[..., :1])


def truncated_quantiles(quantiles: Tensor, dropped: int) -> Tensor:
    """The lowest of E critics' quantiles together, `(E, B, n) -> (B, E (n - dropped))`, in order.

    Without the highest ones, `dropped` for each critic, their mean overestimates less (Kuznetsov et
    al. 2020, eq. 11).
    """
    members, _, n = quantiles.shape
    pooled = quantiles.movedim(0, 1).flatten(1)
    return pooled.sort(-1).values[:, : members * (n - dropped)]


def quantile_middles(n: int, device: torch.device | None = None) -> Tensor:
    """The middles of n equal parts of [0, 1], `(n,)`: (2 i + 1) / 2 n (Dabney et al. 2018)."""
    return (torch.arange(n, device=device) + 0.5) / n


def _finite(x: Tensor) -> Tensor:
    """NaN for infinity, which a clamp would make a number that nobody finds suspicious."""
    return torch.where(x.isfinite(), x, torch.nan)


def _one_step(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    _same_shape(reward=reward, discount=discount, next_value=next_value)
    return reward + discount * next_value


def _backwards(base: Tensor, factor: Tensor, last: Tensor) -> Tensor:
    """x_t = base_t + factor_t x_{t+1}, with x_{T-1} = last."""
    rows = [last]
    for b, f in zip(base[:-1].flip(0).unbind(), factor[:-1].flip(0).unbind(), strict=True):
        rows.append(torch.addcmul(b, f, rows[-1]))
    return torch.stack(rows).flip(0)


def _same_shape(**tensors: Tensor) -> None:
    """Broadcasting (B, 1) with (B,) gives (B, B) and a wrong answer in silence."""
    if len({t.shape for t in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise ValueError(f"shapes must be equal: {shapes}")
