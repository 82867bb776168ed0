"""OptimConfig, and the optimisers by name: SGD, Adam, AdamW, RMSprop, AdaGrad on a flat vector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agents.core import schedules
from agents.core.files import check_types

TINY = 1e-30
"""The least `eps`: what rounds to 0 in float32 makes 0/0 of a weight that never had a gradient."""
Optimizer = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"]
_FOR = {"momentum": ("sgd", "rmsprop"), "alpha": ("rmsprop",), "betas": ("adam", "adamw")}
"""The rules that these settings are for."""


@dataclass(frozen=True)
class OptimConfig:
    """How a learner follows its gradient."""

    optimizer: Optimizer = "adam"
    """The rule; adamw is adam with a weight_decay of 0.01 unless another is given."""
    lr: float = 3e-4
    """Learning rate, the highest it gets."""
    schedule: Literal["constant", "linear", "cosine", "cyclical"] = "constant"
    """How the learning rate changes with environment steps."""
    final_lr: float = 0.0
    """Where a linear or cosine schedule ends; the lower end of a cyclical one."""
    schedule_steps: int | None = None
    """Environment steps a schedule (or one cycle) takes; None: the whole planned training."""
    warmup_steps: int = 0
    """Environment steps over which the learning rate first rises linearly to its value."""
    max_grad_norm: float | None = None
    """Gradients longer than this are scaled down to it; None: never."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of adam's moments."""
    alpha: float = 0.99
    """Decay rate of rmsprop's second moment."""
    eps: float = 1e-8
    """Added to the denominator of adam, adamw, rmsprop and adagrad, which may be 0 without it."""
    momentum: float = 0.0
    """Momentum of sgd and rmsprop."""
    weight_decay: float | None = None
    """Decoupled decay of weights, not of biases or norms: w -= lr * weight_decay * w. None: the
    optimiser's own, which is 0.01 for adamw and 0 for the others."""
    l1: float = 0.0
    """Adds l1 * Σ|w| over weights (not biases or norms) to the loss."""
    l2: float = 0.0
    """Adds l2 / 2 * Σw² over weights (not biases or norms) to the loss."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products in a loss; weights, moments and what else is kept stay float32."""
    stats_every: int = 32
    """Updates from one record of per-layer gradient statistics to the next; 0: none."""

    def __post_init__(self) -> None:
        check_types(self, "optim.")
        _require(self, "lr", self.lr > 0, "a positive number")
        _require(self, "eps", self.eps >= TINY, f"{TINY:.0e} or more")
        for name in ("final_lr", "l1", "l2"):
            _require(self, name, getattr(self, name) >= 0, "0 or more")
        for name in ("warmup_steps", "stats_every"):
            _require(self, name, getattr(self, name) >= 0, "0 or more")
        _require(self, "weight_decay", (self.weight_decay or 0.0) >= 0, "0 or more")
        for name in ("max_grad_norm", "schedule_steps"):
            value = getattr(self, name)
            _require(self, name, value is None or value > 0, "positive, or None")
        _require(self, "betas", all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)")
        for name in ("alpha", "momentum"):
            _require(self, name, 0 <= getattr(self, name) < 1, "a number in [0, 1)")
        for name, rules in _FOR.items():
            value, default = getattr(self, name), getattr(OptimConfig, name)
            if value != default and self.optimizer not in rules:
                raise ValueError(
                    f"optim.{name} is {value}, which has no effect with {self.optimizer}: "
                    f"use {default}"
                )
        if self.schedule == "constant" and (self.final_lr or self.schedule_steps):
            raise ValueError(
                "optim.final_lr and optim.schedule_steps need a schedule: linear, cosine, cyclical"
            )
        _require(self, "final_lr", self.final_lr <= self.lr, "at most optim.lr")

    @property
    def decay(self) -> float:
        """The decoupled weight decay in force."""
        if self.weight_decay is None:
            return 0.01 if self.optimizer == "adamw" else 0.0
        return self.weight_decay

    def lr_at(self, step: int, planned: int | None) -> float:
        """The learning rate after `step` environment steps of `planned`.

        Raises ValueError when the schedule runs over the whole training and its length is unknown.
        """
        lr = self.lr
        if self.schedule != "constant":
            length = self.schedule_steps or planned
            if length is None:
                raise ValueError(
                    f"the {self.schedule} schedule needs a length: set optim.schedule_steps, or "
                    "call agent.plan(steps), as train() does"
                )
            if self.schedule == "cyclical":
                lr = schedules.cyclical(step / length, self.final_lr, self.lr)
            else:
                curve = schedules.linear if self.schedule == "linear" else schedules.cosine
                lr = curve(step / length, self.lr, self.final_lr)
        return lr * schedules.warm_up(step, self.warmup_steps)


Moments = dict[str, Tensor]
"""What an optimiser remembers, each a flat vector (or a scalar counter), by torch.optim's names."""


def new_moments(config: OptimConfig, weights: Tensor) -> Moments:
    """The moments of an optimiser that has not made a step."""
    names = {
        "sgd": ("momentum_buffer",) if config.momentum else (),
        "adam": ("exp_avg", "exp_avg_sq"),
        "adamw": ("exp_avg", "exp_avg_sq"),
        "rmsprop": ("square_avg", "momentum_buffer") if config.momentum else ("square_avg",),
        "adagrad": ("sum",),
    }[config.optimizer]
    moments = {name: torch.zeros_like(weights) for name in names}
    if config.optimizer in ("adam", "adamw"):
        moments["step"] = torch.zeros((), device=weights.device)
    return moments


def step(
    config: OptimConfig, weights: Tensor, gradient: Tensor, moments: Moments, lr: float
) -> None:
    """One step of the optimiser on a flat vector, in place; weight decay is the learner's.

    The rules are those of torch.optim, to which they are held by a test. Calling its kernel
    without its classes saves a fifth of a whole update of a small network, which is what their
    bookkeeping over parameter groups costs.
    """
    if config.optimizer == "sgd":
        if config.momentum:  # Polyak 1964
            gradient = moments["momentum_buffer"].mul_(config.momentum).add_(gradient)
        weights.add_(gradient, alpha=-lr)
    elif config.optimizer == "rmsprop":  # Tieleman & Hinton 2012
        square = moments["square_avg"]
        square.mul_(config.alpha).addcmul_(gradient, gradient, value=1.0 - config.alpha)
        scale = square.sqrt().add_(config.eps)
        if config.momentum:
            velocity = moments["momentum_buffer"].mul_(config.momentum).addcdiv_(gradient, scale)
            weights.add_(velocity, alpha=-lr)
        else:
            weights.addcdiv_(gradient, scale, value=-lr)
    elif config.optimizer == "adagrad":  # Duchi et al. 2011
        total = moments["sum"].addcmul_(gradient, gradient)
        weights.addcdiv_(gradient, total.sqrt().add_(config.eps), value=-lr)
    else:  # Kingma & Ba 2015
        moments["step"] += 1.0
        torch._fused_adam_(
            [weights],
            [gradient],
            [moments["exp_avg"]],
            [moments["exp_avg_sq"]],
            [],
            [moments["step"]],
            lr=lr,
            beta1=config.betas[0],
            beta2=config.betas[1],
            weight_decay=0.0,
            eps=config.eps,
            amsgrad=False,
            maximize=False,
        )


def _require(config: OptimConfig, name: str, holds: bool, what: str) -> None:
    value = getattr(config, name)
    finite = not isinstance(value, float) or math.isfinite(value)
    if not (holds and finite):
        raise ValueError(f"optim.{name} is {value}: use {what}")
