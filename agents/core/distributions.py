"""Policies' distributions as functions of a network's output, one for each kind of action space.

Losses call `log_prob`, `entropy` and `kl` on tensors; acting calls `sample` and `mode` on arrays,
with a NumPy generator: for the few observations of a step that is several times faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from agents.core.files import check_types
from agents.core.network import Head
from agents.core.spaces import parts_of

LOG_STD = (-20.0, 2.0)
"""Where the logarithm of a standard deviation that depends on the state is held."""
Array = TypeVar("Array", Tensor, np.ndarray)


@dataclass(frozen=True)
class PolicyConfig:
    """How a policy over numbers spreads its actions."""

    std: Literal["free", "state", "gsde"] = "free"
    """Where the standard deviation is from. free: parameters of its own. state: a function of the
    observation. gsde: the noise itself is one, which changes smoothly (Raffin et al. 2022)."""
    log_std: float = 0.0
    """The logarithm of the standard deviation at the start; with gsde that of its factors. Numbers
    with bounds lie between -1 and 1 for the policy, whatever their range is."""
    gsde_steps: int | None = None
    """Steps after which gsde draws another noise; None: with each episode."""

    def __post_init__(self) -> None:
        check_types(self, "policy.")
        if not math.isfinite(self.log_std):
            raise ValueError(f"policy.log_std is {self.log_std}: use a number")
        if self.gsde_steps is not None and (self.gsde_steps < 1 or self.std != "gsde"):
            raise ValueError(
                f"policy.gsde_steps is {self.gsde_steps}: use 1 or more, with policy.std=gsde"
            )


@dataclass(frozen=True)
class Categorical:
    """Over the actions 0 … n-1, from logits `(..., n)`."""

    n: int

    @property
    def head(self) -> Head:
        return Head(self.n, gain=0.01, masked=True)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """log p(action), `(...,)`, for integer actions `(...,)`."""
        log_prob = torch.log_softmax(logits, -1)
        return log_prob.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        """-Σ p log p in nats, `(...,)`; at most log n."""
        log_prob = torch.log_softmax(logits, -1)
        return -(log_prob.exp() * log_prob).sum(-1)

    def kl(self, logits: Tensor, other: Tensor) -> Tensor:
        """KL(p, q) = Σ p log(p / q) in nats, `(...,)`, of p from `logits` and q from `other`."""
        log_prob, log_other = torch.log_softmax(logits, -1), torch.log_softmax(other, -1)
        return (log_prob.exp() * (log_prob - log_other)).sum(-1)

    def sample(self, logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions `(...,)` by the Gumbel-max trick: argmax(logits + Gumbel noise)."""
        return (logits + rng.gumbel(size=logits.shape)).argmax(-1)

    def mode(self, logits: np.ndarray) -> np.ndarray:
        """The most probable actions `(...,)`."""
        return logits.argmax(-1)


@dataclass(frozen=True)
class Bernoulli:
    """Over vectors of `size` bits that are independent of each other, from logits `(..., size)`."""

    size: int

    @property
    def head(self) -> Head:
        return Head(self.size, gain=0.01)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """log p(action), `(...,)`, for actions `(..., size)` of 0 and 1."""
        sign = 2.0 * action.to(logits.dtype) - 1.0
        return F.logsigmoid(sign * logits).sum(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        """-Σ p log p + (1-p) log(1-p) in nats, `(...,)`."""
        return (F.softplus(logits) - torch.sigmoid(logits) * logits).sum(-1)

    def kl(self, logits: Tensor, other: Tensor) -> Tensor:
        """KL(p, q) in nats, `(...,)`, of p from `logits` and q from `other`."""
        gap = torch.sigmoid(logits) * (logits - other)
        return (gap + F.softplus(other) - F.softplus(logits)).sum(-1)

    def sample(self, logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions `(..., size)`: 1 where the logit exceeds logistic noise."""
        return (logits > rng.logistic(size=logits.shape)).astype(np.int64)

    def mode(self, logits: np.ndarray) -> np.ndarray:
        """1 where it is the more probable, `(..., size)`."""
        return (logits > 0).astype(np.int64)


@dataclass(frozen=True)
class Gaussian:
    """Over vectors of `size` numbers, from means and log standard deviations `(..., 2 size)`.

    How these depend on the observation, `config` says.
    """

    size: int
    config: PolicyConfig = PolicyConfig()

    @property
    def head(self) -> Head:
        c = self.config
        if c.std == "state":
            return Head(2 * self.size, gain=0.01)
        return Head(self.size, gain=0.01, log_std=c.log_std, gsde=c.std == "gsde")

    def parts(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations, `(..., size)` each."""
        mean, log_std = output.chunk(2, -1)
        if self.config.std == "state":
            log_std = (log_std + self.config.log_std).clamp(*LOG_STD)
        return mean, log_std

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """log p(action), `(...,)`, for actions `(..., size)`."""
        mean, log_std = self.parts(output)
        z = (action - mean) * torch.exp(-log_std)
        return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, output: Tensor) -> Tensor:
        """½ log 2πe + log σ in nats, summed over the components, `(...,)`."""
        log_std = self.parts(output)[1]
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, output: Tensor, other: Tensor) -> Tensor:
        """KL(p, q) = Σ log σ_q/σ_p + (σ_p² + (μ_p - μ_q)²) / 2σ_q² - ½ in nats, `(...,)`.

        p is the distribution from `output`, q the one from `other`.
        """
        mean, log_std = self.parts(output)
        other_mean, other_log_std = self.parts(other)
        wider = log_std - other_log_std
        z = (mean - other_mean) * torch.exp(-other_log_std)
        return (0.5 * (torch.exp(2.0 * wider) + z.square() - 1.0) - wider).sum(-1)

    def sample(self, output: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions `(..., size)`, not bounded."""
        mean, log_std = np.split(output, 2, axis=-1)
        if self.config.std == "state":
            log_std = np.clip(log_std + self.config.log_std, *LOG_STD)
        return mean + np.exp(log_std) * rng.standard_normal(mean.shape, dtype=mean.dtype)

    def mode(self, output: np.ndarray) -> np.ndarray:
        """The means `(..., size)`."""
        return np.split(output, 2, axis=-1)[0]


@dataclass(frozen=True)
class SquashedGaussian:
    """tanh(u) in (-1, 1) with u normal, from means and log deviations of u, `(..., 2 size)`.

    Both are functions of the observation, or the deviation is what else `config` says (Haarnoja et
    al. 2018, "Soft actor-critic algorithms and applications", appendix C; Raffin et al. 2022).
    """

    size: int
    config: PolicyConfig = PolicyConfig("state")

    @property
    def normal(self) -> Gaussian:
        """The distribution of u."""
        return Gaussian(self.size, self.config)

    @property
    def head(self) -> Head:
        return replace(self.normal.head, gain=1.0)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Standard normal noise `(count, size)` for `draw`, where the generator is."""
        return torch.randn((count, self.size), generator=generator, device=generator.device)

    def draw(self, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `(..., size)`, differentiable in the output, and log p of each, `(...,)`.

        `noise` `(..., size)` is standard normal.
        """
        mean, log_std = self.normal.parts(output)
        u = torch.addcmul(mean, log_std.exp(), noise)
        normal = 0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi)
        return u.tanh(), -(normal + log_slope_of_tanh(u)).sum(-1)

    def still(self, output: Tensor) -> Tensor:
        """Actions `(..., size)` without noise: what the means become."""
        return self.normal.parts(output)[0].tanh()

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """log p(action), `(...,)`, for actions `(..., size)` in (-1, 1)."""
        u = action.atanh()
        return self.normal.log_prob(output, u) - log_slope_of_tanh(u).sum(-1)

    def sample(self, output: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions `(..., size)`."""
        return np.tanh(self.normal.sample(output, rng))

    def mode(self, output: np.ndarray) -> np.ndarray:
        """What the means become, `(..., size)`."""
        return np.tanh(self.normal.mode(output))


def log_slope_of_tanh(u: Tensor) -> Tensor:
    """log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)), which stays exact far out in the tails."""
    return 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))


@dataclass(frozen=True)
class Joint:
    """Over vectors made of independent parts, each with a distribution of its own.

    Its head gives the numbers of all parts and, behind them, the log standard deviations of those
    that are free; an action `(..., columns)` has a column for each number drawn.
    """

    parts: tuple[Categorical | Bernoulli | Gaussian, ...]

    @property
    def head(self) -> Head:
        heads = [part.head for part in self.parts]
        masked = all(h.masked for h in heads)
        free = [h.log_std for h in heads for _ in range(h.size or 0) if h.log_std is not None]
        return Head(
            sum(h.size or 0 for h in heads),
            gain=0.01,
            log_std=free[0] if free else None,
            log_stds=len(free) if free else None,
            masked=masked,
            choices=tuple(h.size or 0 for h in heads) if masked else None,
        )

    def _split(self, output: Array, join: Callable[[list[Array]], Array]) -> Iterator[Array]:
        """What each part reads of the head's output."""
        heads = [part.head for part in self.parts]
        start, spread = 0, sum(h.size or 0 for h in heads)
        for head in heads:
            size = head.size or 0
            piece = output[..., start : start + size]
            start += size
            if head.log_std is not None:
                piece = join([piece, output[..., spread : spread + size]])
                spread += size
            yield piece

    def _outputs(self, output: Tensor) -> Iterator[Tensor]:
        return self._split(output, lambda pieces: torch.cat(pieces, -1))

    def _columns(self, action: Tensor) -> Iterator[Tensor]:
        """What each part reads of an action."""
        start = 0
        for part in self.parts:
            if isinstance(part, Categorical):
                yield action[..., start].long()
                start += 1
            else:
                yield action[..., start : start + part.size]
                start += part.size

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """log p(action), the sum over the parts, `(...,)`, for actions `(..., columns)`."""
        triples = zip(self.parts, self._outputs(output), self._columns(action), strict=True)
        return _sum([part.log_prob(o, a) for part, o, a in triples])

    def entropy(self, output: Tensor) -> Tensor:
        """The sum over the parts in nats, `(...,)`."""
        pairs = zip(self.parts, self._outputs(output), strict=True)
        return _sum([part.entropy(o) for part, o in pairs])

    def kl(self, output: Tensor, other: Tensor) -> Tensor:
        """The sum over the parts in nats, `(...,)`."""
        triples = zip(self.parts, self._outputs(output), self._outputs(other), strict=True)
        return _sum([part.kl(o, q) for part, o, q in triples])

    def sample(self, output: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions `(..., columns)`."""
        return self._draw(output, lambda part, o: part.sample(o, rng))

    def mode(self, output: np.ndarray) -> np.ndarray:
        """The most probable actions `(..., columns)`."""
        return self._draw(output, lambda part, o: part.mode(o))

    def _draw(self, output: np.ndarray, draw: Callable[[Any, np.ndarray], Any]) -> np.ndarray:
        outputs = self._split(output, lambda pieces: np.concatenate(pieces, axis=-1))
        drawn = [draw(part, o) for part, o in zip(self.parts, outputs, strict=True)]
        columns = [
            d[..., None] if isinstance(part, Categorical) else d
            for part, d in zip(self.parts, drawn, strict=True)
        ]
        numbers = any(isinstance(part, Gaussian) for part in self.parts)
        return np.concatenate(columns, axis=-1, dtype=np.float32 if numbers else np.int64)


Distribution = Categorical | Bernoulli | Gaussian | Joint


def largest_entropy(space: spaces.Space[Any]) -> float:
    """The entropy of the policy that does everything equally often, in nats; nan with Box actions.

    A density has no largest entropy that tells how much at random it acts.
    """
    if isinstance(space, spaces.Discrete):
        return math.log(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return float(np.log(space.nvec).sum())
    if isinstance(space, spaces.MultiBinary):
        return math.prod(space.shape) * math.log(2)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return sum(largest_entropy(part) for part in parts_of(space))
    return math.nan


def policy_for(space: spaces.Space[Any], config: PolicyConfig | None = None) -> Distribution:
    """The distribution of a policy over the actions of `space`.

    Raises ValueError for a space that is not supported, and for a config that has no effect on it.
    """
    config = config or PolicyConfig()
    composite, kinds = isinstance(space, spaces.Dict | spaces.Tuple), parts_of(space)
    if not kinds:
        raise ValueError(f"action space {space} is empty: there is nothing to decide")
    numbers = any(isinstance(kind, spaces.Box) for kind in kinds)
    if config != PolicyConfig() and not numbers:
        raise ValueError(f"policy is {config}, which has no effect on {space}: leave it as it is")
    if config.std != "free" and composite:
        raise ValueError(f"policy.std is {config.std!r}, for Box actions alone: use free")
    parts = tuple(part for kind in kinds for part in _parts(kind, config))
    alone = len(parts) == 1 and not composite and not isinstance(space, spaces.MultiDiscrete)
    return parts[0] if alone else Joint(parts)


def _parts(
    space: spaces.Space[Any], config: PolicyConfig
) -> list[Categorical | Bernoulli | Gaussian]:
    if isinstance(space, spaces.Discrete):
        return [Categorical(int(space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        return [Categorical(int(n)) for n in space.nvec.reshape(-1)]
    if isinstance(space, spaces.MultiBinary):
        return [Bernoulli(math.prod(space.shape))]
    if isinstance(space, spaces.Box):
        return [Gaussian(math.prod(space.shape), config)]
    raise ValueError(
        f"action space {space} is not supported: use Discrete, Box, MultiDiscrete, MultiBinary or "
        "a flat Dict or Tuple of these"
    )


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
