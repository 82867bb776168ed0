"""Eligibility traces: credit for what was done earlier, without keeping any of it.

The forward view regresses q(s_t, a_t) on a λ-return, which the rest of the episode decides. The
backward view keeps a decaying sum of gradients, the trace, and moves along it by every TD error:

    z_t = γ λ z_{t-1} + ∇q(s_t, a_t)        w_{t+1} = w_t + α δ_t z_t

Over an episode the two make the same update, for small steps (Sutton & Barto 2018, chapter 12).
Weights are one flat vector, and so is a trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from agents.core.learner import Learner, Step
from agents.core.optimizers import OptimConfig


def overshooting_bound(delta: Tensor, trace: Tensor, lr: float, kappa: float) -> Tensor:
    """1 / max(1, M) with M = α κ max(|δ|, 1) ‖z‖₁: what a step α δ z is scaled by, `()`.

    It makes ObGD of gradient descent (overshooting-bounded, Elsayed et al. 2024). A step overshoots
    where it changes the sign of the TD error that it follows. Of linear values in features with
    |x - γ x'| ≤ κ in every component, a step takes at most a share α κ ‖z‖₁ of the error away. So
    M ≤ 1 is safe, and where M would be more, at most a share 1 / max(|δ|, 1) is taken.
    """
    size = torch.linalg.vector_norm(trace, 1) * delta.abs().clamp_min(1.0)
    return (lr * kappa * size).clamp_min(1.0).reciprocal()


def check_optim(optim: OptimConfig, kappa: float | None) -> None:
    """Raise ValueError for settings that mean something else than they say along a trace."""
    if optim.l1 or optim.l2:
        raise ValueError(
            "optim.l1 and optim.l2 would be added up in the trace, and be multiplied by TD errors: "
            "use optim.weight_decay"
        )
    if kappa is not None and (optim.optimizer != "sgd" or optim.momentum):
        raise ValueError(
            f"kappa is {kappa}: it bounds steps of sgd without momentum; set it to None to use "
            f"{optim.optimizer}{' with momentum' if optim.momentum else ''}"
        )


class Traces:
    """A trace for each environment over the flat vector of one learner, which follows them.

    `kappa` bounds the steps; None follows δ z as it is.
    """

    def __init__(self, learner: Learner, kappa: float | None) -> None:
        self.learner = learner
        self.kappa = kappa
        self.by_env: dict[int, Tensor] = {}

    def step(self, env: int, delta: Tensor, decay: Tensor, aux: Mapping[str, Tensor]) -> Step:
        """Let the trace decay, add the gradient of -q that the learner holds, and step along δ z.

        `delta` is the TD error `()`, `decay` `(1,)` γ λ, or 0 where the trace is cut before this
        transition. A step that is not finite leaves the weights as they were and its gradient out
        of the trace, which decays, or is cut, all the same.
        """
        learner, gradient = self.learner, self.learner.flat.gradient
        earlier = self.by_env.get(env)
        trace = gradient.clone() if earlier is None else torch.addcmul(gradient, decay, earlier)
        terms = {"td": 0.5 * delta.square()}
        aux = {**aux, "td_error": delta.reshape(1), "prediction": aux["q"].reshape(1)}
        if self.kappa is None:
            direction = delta * trace
        else:
            bound = overshooting_bound(delta, trace, learner.lr, self.kappa)
            direction = delta * bound * trace
            aux = {**aux, "bound": bound}
        step = learner.step_along(direction, terms, aux)
        if not step.skipped:
            self.by_env[env] = trace
        elif earlier is not None:
            self.by_env[env] = decay * earlier
        return step

    def state_dict(self) -> dict[str, Any]:
        return {str(env): trace.clone() for env, trace in self.by_env.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vector = self.learner.flat.vector
        self.by_env = {int(env): torch.as_tensor(z).to(vector) for env, z in state.items()}
