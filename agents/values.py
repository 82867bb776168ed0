"""How the worth of an action is represented: a number, a histogram, or quantiles of the return.

Each representation supplies its head, the expectation by which actions are chosen, the target that
a successor makes, and the loss against it. An output is what a head gives for every action,
`(..., A)` for numbers or `(..., A, n)`; `of_action` takes one action's part of it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from agents import losses, targets
from agents.core.network import FORBIDDEN, Head, forbidden

Representation = Literal["scalar", "categorical", "hl_gauss", "quantile", "implicit_quantile"]


def of_action(output: Tensor, action: Tensor) -> Tensor:
    """The part of an output `(B, A)` or `(B, A, n)` that belongs to the actions `(B,)`."""
    index = action.reshape(-1, *[1] * (output.ndim - 1)).expand(-1, 1, *output.shape[2:])
    return output.gather(1, index).squeeze(1)


class Value:
    """What every representation has. This one is the plain one: Q(s, a) as a number."""

    def __init__(self, loss: Literal["huber", "squared"] = "huber") -> None:
        self._loss = losses.huber if loss == "huber" else losses.squared

    def head(self, actions: int, dueling: bool) -> Head:
        """The head of a network that values so many actions, `FORBIDDEN` where a mask says so."""
        return Head(actions, masked=True, dueling=dueling)

    def fractions(self, batch: int, generator: torch.Generator) -> Tensor | None:
        """Quantile fractions τ `(batch, N)` to ask a network for while learning, or None."""
        return None

    def fixed_fractions(self, device: torch.device) -> Tensor | None:
        """Those to choose actions by, `(N,)`: the same every time, for all observations."""
        return None

    def expectation(self, output: Tensor) -> Tensor:
        """Q, from an output `(..., A)` or `(..., A, n)` or from one action's part of it."""
        return output

    def target(self, reward: Tensor, discount: Tensor, successor: Tensor) -> Tensor:
        """What r + γ Z(s', a') looks like, from the part of the next action."""
        return reward + discount * successor

    def target_mean(self, target: Tensor) -> Tensor:
        """The expectation of a target, `(B,)`: what the TD error is taken to."""
        return target

    def loss(self, taken: Tensor, target: Tensor, tau: Tensor | None = None) -> Tensor:
        """How far the part of the action taken is from the target, `(B,)`."""
        return self._loss(taken, target)

    def error(self, taken: Tensor, target: Tensor) -> Tensor:
        """What a priority is made of, `(B,)`: here the TD error."""
        return target - taken


class CategoricalValue(Value):
    """Probabilities of `atoms` returns from `low` to `high`, as logits (C51, Bellemare 2017)."""

    def __init__(
        self, atoms: int, low: float, high: float, device: torch.device | str = "cpu"
    ) -> None:
        self.support = torch.linspace(low, high, atoms, device=device)

    def head(self, actions: int, dueling: bool) -> Head:
        atoms = len(self.support)
        return Head(actions, gain=0.01, masked=True, atoms=atoms, dueling=dueling)

    def expectation(self, output: Tensor) -> Tensor:
        expected = self._mean(output.softmax(-1))
        # Logits that are all the same would be taken for any return, each as likely.
        return torch.where(forbidden(output.amax(-1)), FORBIDDEN, expected)

    def target(self, reward: Tensor, discount: Tensor, successor: Tensor) -> Tensor:
        return targets.categorical(reward, discount, successor.softmax(-1), self.support)

    def target_mean(self, target: Tensor) -> Tensor:
        return self._mean(target)

    def _mean(self, probability: Tensor) -> Tensor:
        """Of the support. No product of matrices: that would be rounded to bfloat16 on occasion."""
        return (probability * self.support).sum(-1)

    def loss(self, taken: Tensor, target: Tensor, tau: Tensor | None = None) -> Tensor:
        return losses.cross_entropy(taken, target)

    def error(self, taken: Tensor, target: Tensor) -> Tensor:
        """The Kullback-Leibler divergence, as Rainbow takes it (Hessel et al. 2018)."""
        return losses.cross_entropy(taken, target) - torch.special.entr(target).sum(-1)


class HistogramValue(CategoricalValue):
    """The same histogram, learned from the expected target smeared out.

    HL-Gauss: Farebrother et al. 2024, "Stop regressing". σ is 0.75 times a bin's width.
    """

    def __init__(
        self, atoms: int, low: float, high: float, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(atoms, low, high, device)
        self.sigma = 0.75 * (high - low) / (atoms - 1)

    def target(self, reward: Tensor, discount: Tensor, successor: Tensor) -> Tensor:
        expected = reward + discount * self.expectation(successor)
        return targets.hl_gauss(expected, self.support, self.sigma)


class QuantileValue(Value):
    """`atoms` quantiles of the return, at the middles of as many equal parts (Dabney 2018)."""

    def __init__(self, atoms: int) -> None:
        self.atoms = atoms

    def head(self, actions: int, dueling: bool) -> Head:
        return Head(actions, masked=True, atoms=self.atoms, dueling=dueling)

    def expectation(self, output: Tensor) -> Tensor:
        return output.mean(-1)

    def target(self, reward: Tensor, discount: Tensor, successor: Tensor) -> Tensor:
        return reward.unsqueeze(-1) + discount.unsqueeze(-1) * successor

    def target_mean(self, target: Tensor) -> Tensor:
        return target.mean(-1)

    def loss(self, taken: Tensor, target: Tensor, tau: Tensor | None = None) -> Tensor:
        if tau is None:
            tau = targets.quantile_middles(taken.shape[-1], taken.device)
        return losses.quantile_huber(taken, target, tau)

    def error(self, taken: Tensor, target: Tensor) -> Tensor:
        return target.mean(-1) - taken.mean(-1)


class ImplicitQuantileValue(QuantileValue):
    """Quantiles at any fraction that the network is asked for (IQN, Dabney et al. 2018b).

    `atoms` fractions are drawn for each sample and each side of the loss; actions are chosen by
    `ACTING` fixed ones, so that acting draws nothing.
    """

    ACTING = 32

    def head(self, actions: int, dueling: bool) -> Head:
        return Head(actions, masked=True, cosines=64, dueling=dueling)

    def fractions(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.rand(batch, self.atoms, generator=generator, device=generator.device)

    def fixed_fractions(self, device: torch.device) -> Tensor:
        return targets.quantile_middles(self.ACTING, device)


def value_of(
    representation: Representation,
    loss: Literal["huber", "squared"],
    atoms: int,
    low: float,
    high: float,
    device: torch.device | str = "cpu",
) -> Value:
    """A representation by its name. `atoms` are bins or quantiles; `low`, `high` the support."""
    return {
        "scalar": lambda: Value(loss),
        "categorical": lambda: CategoricalValue(atoms, low, high, device),
        "hl_gauss": lambda: HistogramValue(atoms, low, high, device),
        "quantile": lambda: QuantileValue(atoms),
        "implicit_quantile": lambda: ImplicitQuantileValue(atoms),
    }[representation]()
