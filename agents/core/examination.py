"""What is too dear to record in every run and is worth a look at a checkpoint.

Ranks, noise and curvature are pure functions of features, gradients and products; the rest asks a
learner for gradients and leaves its weights as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.core.learner import Learner, Loss, free_copy
from agents.core.network import Network, forbidden
from agents.core.optimizers import Moments, OptimConfig

FUNCTIONS = 4
"""Random functions that plasticity is tried on: so many a fresh network learns in a few steps,
however many outputs it has."""


def effective_rank(features: Tensor, share: float = 0.99) -> int:
    """min k: Σ_{i≤k} σ_i / Σ_i σ_i ≥ share, of features `(B, H)` (Kumar et al. 2020).

    0 where all features are 0.
    """
    sigma = torch.linalg.svdvals(features.double())
    total = sigma.sum()
    if not total > 0:
        return 0
    reached = sigma.cumsum(0) / total >= share - 1e-12
    return int(reached.int().argmax()) + 1


def stable_rank(features: Tensor) -> float:
    """‖Φ‖_F² / σ_1² of features `(B, H)`; between 1 and their rank, 0 where all are 0."""
    sigma = torch.linalg.svdvals(features.double())
    return float(sigma.square().sum() / sigma[0].square()) if sigma[0] > 0 else 0.0


class NoiseScale(NamedTuple):
    """How noisy a gradient is."""

    signal: float
    """‖G‖², squared norm of the true gradient, estimated without bias (may come out negative)."""
    noise: float
    """tr Σ, variance of the gradient of one sample, summed over the weights."""

    @property
    def scale(self) -> float:
        """tr Σ / ‖G‖²: the batch beyond which more samples help little; inf without a signal."""
        return self.noise / self.signal if self.signal > 0 else float("inf")


def noise_scale(gradients: Tensor, batch: float) -> NoiseScale:
    """From the gradients `(n, P)` of n ≥ 2 independent batches of equal size.

    McCandlish et al. 2018, appendix A.1, with single batches and the mean of all for the two sizes.
    """
    count = len(gradients)
    if count < 2:
        raise ValueError(f"the noise scale needs two or more gradients, there is {count}")
    gradients = gradients.double()
    small = float(gradients.square().sum(1).mean())
    large = float(gradients.mean(0).square().sum())
    # E‖g_B‖² = ‖G‖² + tr Σ / B at both sizes
    signal = (count * large - small) / (count - 1)
    noise = (small - large) / (1.0 / batch - 1.0 / (count * batch))
    return NoiseScale(signal, noise)


def top_eigenvalue(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> float:
    """The largest eigenvalue of a symmetric matrix H, from products v -> H v alone.

    Lanczos's method from `start` `(P,)`: the largest eigenvalue of H within the span of start, H
    start, H² start, …, of which an orthonormal basis is kept (Golub & Van Loan 2013, chapter 10).
    It ends after so many products, or once the residual shows that an eigenvalue lies within
    `tolerance` of what is found, as a share of it. NaN where a product is not finite.
    """
    size = min(iterations, len(start))
    basis = start.new_empty(size, len(start))
    within = torch.zeros(size, size, dtype=torch.float64)  # H in that basis, its upper triangle
    rounding = 10.0 * torch.finfo(start.dtype).eps
    found, rest = math.nan, start
    for k in range(size):
        basis[k] = rest / torch.linalg.vector_norm(rest)
        span, rest = basis[: k + 1], product(basis[k])
        within[: k + 1, k] = span @ rest
        if not within[: k + 1, k].isfinite().all():
            return math.nan
        values, vectors = torch.linalg.eigh(within[: k + 1, : k + 1], UPLO="U")
        found = float(values[-1])
        for _ in range(2):  # once leaves rounding errors
            rest = rest - span.T @ (span @ rest)
        residual = float(torch.linalg.vector_norm(rest) * vectors[-1, -1].abs())
        if residual <= max(tolerance * abs(found), rounding * float(values.abs().max())):
            break
    return found


class Sharpness(NamedTuple):
    """The curvature of a loss at a learner's weights."""

    eigenvalue: float
    """Largest eigenvalue λ of the Hessian."""
    times_lr: float
    """λ lr; beyond 2, gradient descent overshoots (Cohen et al. 2021). Of adam, rmsprop and
    adagrad, λ of the Hessian that their second moments scale."""
    limit: float
    """What times_lr is stable up to: 2, with momentum β 2 (1 + β), and with that of adam, which
    damps the gradient, 2 (1 + β) / (1 - β) (Cohen 2022)."""


def sharpness(learner: Learner, loss: Loss, *inputs: Any, generator: torch.Generator) -> Sharpness:
    """The curvature of a loss and of the learner's L2 penalty.

    Second moments are taken as they stand, adam's bias corrected. NaN where second derivatives are
    not finite.
    """
    start = torch.randn(learner.flat.vector.shape, generator=generator).to(learner.flat.vector)
    curvature, c = learner.hessian(loss, *inputs), learner.config

    def product(v: Tensor) -> Tensor:
        u = curvature(v)
        u[: learner.flat.decaying] += c.l2 * v[: learner.flat.decaying]
        return u

    eigenvalue = scaled = top_eigenvalue(product, start)
    divisor = _divisor(c, learner.moments)
    if divisor is not None:
        root = divisor.rsqrt()
        scaled = top_eigenvalue(lambda v: root * product(root * v), start)
    if c.optimizer in ("adam", "adamw"):
        limit = 2.0 * (1.0 + c.betas[0]) / (1.0 - c.betas[0])
    else:
        limit = 2.0 * (1.0 + c.momentum)  # heavy ball, gradient not damped
    return Sharpness(eigenvalue, scaled * learner.lr, limit)


def _divisor(config: OptimConfig, moments: Moments) -> Tensor | None:
    """What an optimiser divides each weight's step by; None of sgd, which does not."""
    if config.optimizer == "sgd":
        return None
    if config.optimizer == "rmsprop":
        squares = moments["square_avg"]
    elif config.optimizer == "adagrad":
        squares = moments["sum"]
    else:
        squares = moments["exp_avg_sq"] / (1.0 - config.betas[1] ** max(1, int(moments["step"])))
    return squares.sqrt() + config.eps


class Attribution(NamedTuple):
    """What each term of a loss asks of the same weights."""

    norms: dict[str, float]
    """Of each term's gradient."""
    cosines: dict[str, float]
    """Between two terms' gradients, by `one~other`; below 0 they pull against each other. Of two
    that have no weight in common, as in separate trunks, there is none."""


def term_gradients(learner: Learner, loss: Loss, *inputs: Any) -> dict[str, Tensor]:
    """The gradient `(P,)` of each term of a loss and of each penalty apart; their sum is what the
    learner follows."""
    terms, _ = loss(*inputs)
    found = {}
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        parts = torch.autograd.grad(
            term, learner.flat.parameters, retain_graph=True, materialize_grads=True
        )
        found[name] = torch.cat([part.reshape(-1) for part in parts])
    for name, (_, part) in learner.penalties().items():
        found[name] = torch.zeros_like(learner.flat.vector)
        found[name][: learner.flat.decaying] = part
    return found


def attribution(
    gradients: Mapping[str, Tensor], where: Tensor | slice | None = None
) -> Attribution:
    """Norms and cosines of gradients `(P,)` by name, over the weights `where` picks."""
    picked = {n: (g if where is None else g[where]).double() for n, g in gradients.items()}
    norms = {name: float(torch.linalg.vector_norm(g)) for name, g in picked.items()}
    cosines = {
        f"{a}~{b}": float(picked[a].dot(picked[b])) / (norms[a] * norms[b])
        for a, b in combinations(picked, 2)
        if ((picked[a] != 0) & (picked[b] != 0)).any()
    }
    return Attribution(norms, cosines)


def trunk_weights(learner: Learner) -> Tensor | None:
    """Which of a learner's weights lie before heads that share them, as indices; None if none does.

    Of networks with a shared trunk those are all but the heads' own.
    """
    shared = tuple(
        f"{key}." for key, m in learner.modules.items() if isinstance(m, Network) and m.shared
    )
    own = tuple(f"{key}.heads." for key in learner.modules)
    indices = learner.flat.split(torch.arange(learner.flat.vector.numel()))
    picked = [
        part.reshape(-1)
        for name, part in indices.items()
        if name.startswith(shared) and not name.startswith(own)
    ]
    return torch.cat(picked) if picked else None


def random_function(obs: Tensor, outputs: int, generator: torch.Generator) -> Tensor:
    """Values `(B, outputs)` of smooth random functions of mean 0 and variance 1 at `(B, size)`.

    √2 cos(w·x + b) of standardised observations, w ~ N(0, 9 / size), b uniform (Rahimi & Recht
    2007).
    """
    x = obs.float()  # images are bytes
    x = (x - x.mean(0)) / (x.std(0) + 1e-8)
    size = obs.shape[-1]
    w = torch.randn(size, outputs, generator=generator) * 3.0 / size**0.5
    b = torch.rand(outputs, generator=generator) * 2.0 * torch.pi
    return 2**0.5 * torch.cos(x @ w.to(x) + b.to(x))


def fit_random(
    network: Network,
    inputs: Mapping[str, Tensor],
    generator: torch.Generator,
    steps: int = 200,
    lr: float = 1e-3,
) -> float:
    """How badly a copy of a network learns to add random functions to its outputs.

    The mean squared error after `steps` of Adam. It begins at about 1, and stays near it where a
    network has lost its plasticity (after Lyle et al. 2022; a change of its own outputs is asked
    for, so that networks whose outputs differ in size begin alike). Of `FUNCTIONS` the outputs are
    asked for one each in turn, but not those of actions that are not allowed. `inputs` are
    `(B, ...)`.
    """
    twin = free_copy(network)
    with torch.no_grad():
        read = torch.cat([part.flatten(1) for part in inputs.values()], dim=1)
        outputs = _learned(twin, inputs)
        functions = random_function(read, FUNCTIONS, generator)
        target = outputs + functions[:, torch.arange(outputs.shape[1]) % FUNCTIONS]
        asked = ~forbidden(outputs)
    learner = Learner({"twin": twin}, OptimConfig(lr=lr, stats_every=0), "twin")

    def loss() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"error": (_learned(twin, inputs) - target)[asked].square().mean()}, {}

    for _ in range(steps):
        learner.minimize(loss)
    with torch.no_grad():
        return float(loss()[0]["error"])


def _learned(network: Network, inputs: Mapping[str, Tensor]) -> Tensor:
    """The outputs `(B, n)` of all heads by which a trunk is learned.

    Log standard deviations are none that are parameters, or that are made of features detached.
    """
    outputs, rows = network(**inputs), []
    heads = dict[str, Any](network.heads.items())
    for name, layer in heads.items():
        head, part = layer.head, outputs[name]
        if head.log_std is not None:
            part = part[..., : head.size]
        if head.members is not None:
            part = part.movedim(1, 0)  # of an ensemble (K, B, ...)
        rows.append(part.reshape(len(part), -1))
    return torch.cat(rows, dim=1)
