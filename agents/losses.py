"""Losses for each sample, `(...,) -> (...,)`: pure functions, differentiable in the first input.

The caller averages and weights them. Shapes must be equal: a ValueError names them otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Those of torch.nn.functional take three times as long, over checks that are made here.
_mse_loss = torch.ops.aten.mse_loss.default
_huber_loss = torch.ops.aten.huber_loss.default
_NO_REDUCTION = 0


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    """(prediction - target)²."""
    _same_shape(prediction, target)
    return _mse_loss(prediction, target, _NO_REDUCTION)


def huber(prediction: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """½ e² for an error |e| ≤ δ, δ (|e| - ½ δ) beyond it (Huber 1964; Mnih et al. 2015)."""
    _same_shape(prediction, target)
    return _huber_loss(prediction, target, _NO_REDUCTION, delta)


def cross_entropy(logits: Tensor, probability: Tensor) -> Tensor:
    """-Σ p log softmax(logits) over the last axis, `(B, n) -> (B,)` (Bellemare et al. 2017)."""
    _same_shape(logits, probability)
    return -(probability * torch.log_softmax(logits, -1)).sum(-1)


def quantile_huber(quantile: Tensor, target: Tensor, tau: Tensor, delta: float = 1.0) -> Tensor:
    """Σ_i mean_j |τ_i - [u_ij < 0]| huber(u_ij) / δ with u_ij = target_j - quantile_i, `(..., B)`.

    Quantiles `(..., B, n)` at the fractions τ `(B, n)` or `(n,)`, targets `(..., B, m)` (Dabney et
    al. 2018, eq. 10). One quantile at τ = ½ gives half the Huber loss.
    """
    _same_shape(quantile[..., 0], target[..., 0])
    error = target.unsqueeze(-2) - quantile.unsqueeze(-1)  # (B, n, m)
    far = delta * (error.abs() - 0.5 * delta)
    size = torch.where(error.abs() <= delta, 0.5 * error.square(), far)
    weight = (tau.unsqueeze(-1) - (error < 0).to(error.dtype)).abs()
    return (weight * size / delta).mean(-1).sum(-1)


def policy_gradient(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """-log π(a|s) A: its gradient is the policy gradient, negated (Williams 1992)."""
    _same_shape(log_prob, advantage)
    return -log_prob * advantage


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-min(ρ A, clip(ρ, 1-ε, 1+ε) A) with ρ = π(a|s) / π_old(a|s) (Schulman et al. 2017, eq. 7).

    For either sign of A the clipped product is a ceiling of A + ε |A| on ρ A; with the sign turned
    first it is a floor, which saves a step of the backward pass.
    """
    _same_shape(ratio, advantage)
    cost = -advantage
    floor = torch.sub(cost, advantage.abs(), alpha=clip)
    return torch.clamp_min(ratio * cost, floor)


def clipped_value(value: Tensor, old_value: Tensor, returns: Tensor, clip: float) -> Tensor:
    """max((v - G)², (v_clip - G)²), v_clip at most `clip` away from the old value (PPO's code)."""
    _same_shape(value, old_value)
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(squared(value, returns), squared(clipped, returns))


def standardized(x: Tensor, valid: Tensor) -> Tensor:
    """x shifted and scaled to mean 0 and standard deviation 1 over its valid entries."""
    _same_shape(x, valid)
    kept = x[valid]
    return (x - kept.mean()) / (kept.std(correction=0) + 1e-8)


def explained_variance(value: Tensor, returns: Tensor, valid: Tensor) -> float:
    """1 - Var(G - v) / Var(G) over valid entries: 1 is perfect, below 0 worse than a constant."""
    _same_shape(value, returns)
    error, returns = (returns - value)[valid], returns[valid]
    return float(1.0 - error.var(correction=0) / returns.var(correction=0).clamp(min=1e-8))


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} must be equal")
