"""Learner: the one door to backpropagation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from agents.core import optimizers
from agents.core.gradients import GradientStatistics, Record
from agents.core.optimizers import OptimConfig
from agents.core.parameters import FlatParameters

M = TypeVar("M", bound=nn.Module)
Loss = Callable[..., tuple[dict[str, Tensor], dict[str, Tensor]]]
"""`loss(*inputs) -> (terms, aux)`. Pure: a function of the learner's parameters and its inputs.

`terms` are named, weighted scalars that the learner adds up. `aux` is detached and may be per
sample; its scalars are logged. What in it has the name of a buffer of the learner's modules, as
`learner.buffers` has it, is what that buffer becomes once the step is accepted: batch statistics
are learned so. Randomness comes in as an input, and nothing in a loss reads a
tensor's value on the host, so that the same loss can be compiled or stacked over seeds.
"""


class Evaluated(NamedTuple):
    """What a step was made of: the loss, its inputs, and the direction if it was not the gradient.

    By these and the learner's weights the step can be made again.
    """

    loss: Loss
    inputs: tuple[Any, ...]
    direction: Tensor | None


@dataclass(slots=True)
class Step:
    """What came of one step of the optimiser, as host numbers."""

    update: int
    """Accepted updates of the learner so far, this one included if it was accepted."""
    loss: float
    terms: dict[str, float]
    scalars: dict[str, float]
    """The scalars of the loss's aux."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    lr: float
    clipped: bool = False
    skipped: bool = False
    """The loss or the gradient was not finite: nothing was changed."""
    nonfinite: str = ""
    """Where a skipped step went wrong: the loss term and the first layer."""
    record: Record | None = None
    """Every `stats_every` updates; `learner.statistics.summary` reads it."""
    aux: dict[str, Tensor] = field(default_factory=dict)
    """The loss's aux, as tensors."""
    evaluated: Evaluated | None = None
    """What it was made of, if this learner took the gradient."""


class Learner:
    """Evaluates a loss, backpropagates, guards, records, clips and steps an optimiser.

    `modules` (by name) give their trainable parameters to one flat vector that only this learner
    steps. A step whose loss or gradient is not finite changes nothing, bit for bit; it is counted
    and says where it went wrong. `observer`, if set, is called with every `Step`.

    Raises ValueError when a parameter already belongs to another learner.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], config: OptimConfig, name: str = "learner"
    ) -> None:
        self.name = name
        self.config = config
        self.modules = dict(modules)
        self.flat = FlatParameters(modules)
        prefix = {key: f"{key}." if len(self.modules) > 1 else "" for key in self.modules}
        self.buffers = {
            prefix[key] + name: buffer
            for key, module in self.modules.items()
            for name, buffer in module.named_buffers()
        }
        """The modules' buffers by name; of several modules each with its module's name before."""
        self.statistics = GradientStatistics(
            modules, self.flat, config.stats_every, config.betas, config.max_grad_norm
        )
        self.updates = 0
        self.skipped = 0
        self.env_steps = 0
        """Environment steps so far; the agent keeps it current, schedules count in it."""
        self.planned: int | None = None
        """Environment steps of the whole training, where they are known."""
        self.lr_scale = 1.0
        """What the schedule's learning rate is multiplied by: moved by an agent that steers it, and
        less after a rollback."""
        self.observer: Callable[[Learner, Step], None] | None = None
        self._evaluated: tuple[Loss, tuple[Any, ...]] | None = None
        self.moments = optimizers.new_moments(config, self.flat.vector)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.lr_scale * self.config.lr_at(self.env_steps, self.planned)

    def minimize(self, loss: Loss, *inputs: Any) -> Step:
        """One step down the gradient of `loss(*inputs)`."""
        terms, aux = self.gradient(loss, *inputs)
        return self.step_along(self.flat.gradient, terms, aux)

    def gradient(self, loss: Loss, *inputs: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Leaves the gradient of the loss and its penalties in `flat.gradient`.

        Returns the terms and the aux of the loss, detached. Raises ValueError when no term depends
        on the learner's parameters, or `zero_grad` has cut their gradients off the flat vector.
        """
        if not self.flat.attached:
            raise ValueError(
                f"learner {self.name!r}: the gradients were set to None, as zero_grad() does, and "
                "no longer lie in its flat vector; the learner zeroes them itself"
            )
        self._evaluated = loss, inputs
        watching = self.statistics.due(self.updates + 1)
        if watching:
            self.statistics.watch()
        try:
            with self.precision():
                terms, aux = loss(*inputs)
        finally:
            if watching:
                self.statistics.unwatch()
        self.flat.gradient.zero_()
        _backward(terms, self.flat.parameters)
        terms = {name: term.detach() for name, term in terms.items()}
        for name, (value, gradient) in self.penalties().items():
            terms[name] = value
            self.flat.gradient[: self.flat.decaying].add_(gradient)
        return terms, aux

    def precision(self) -> AbstractContextManager[Any]:
        """What its losses are evaluated in: a network gives the same numbers there as in them."""
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.flat.vector.device.type, torch.bfloat16)

    def step_along(
        self,
        direction: Tensor,
        terms: Mapping[str, Tensor] | None = None,
        aux: Mapping[str, Tensor] | None = None,
    ) -> Step:
        """Give the optimiser `direction` (a flat vector) for a gradient: guard, record, clip, step.

        For an agent with a direction of its own; `minimize` passes the gradient. Clipping scales
        the vector given in place.
        """
        terms, aux = dict(terms or {}), dict(aux or {})
        learned = [name for name in aux if name in self.buffers]
        scalars = [n for n, value in aux.items() if value.ndim == 0 and n not in self.buffers]
        numbers = torch.stack(
            [
                torch.linalg.vector_norm(direction),
                *terms.values(),
                *(aux[name] for name in scalars),
                *(torch._foreach_norm([aux[name] for name in learned]) if learned else ()),
            ]
        ).tolist()  # the one transfer: it serves the guard and the log
        grad_norm, rest = numbers[0], numbers[1:]
        values, rest = rest[: len(terms)], rest[len(terms) :]
        told, norms = rest[: len(scalars)], rest[len(scalars) :]
        bad = [n for n, norm in zip(learned, norms, strict=True) if not math.isfinite(norm)]
        step = Step(
            update=self.updates,
            loss=sum(values),
            terms=dict(zip(terms, values, strict=True)),
            scalars=dict(zip(scalars, told, strict=True)),
            grad_norm=grad_norm,
            lr=self.lr,
            aux=aux,
        )
        if math.isfinite(grad_norm) and math.isfinite(step.loss) and not bad:
            self._apply(direction, step)
            for name in learned:
                self.buffers[name].copy_(aux[name])
        else:
            step.skipped = True
            step.nonfinite = self._locate(direction, step.terms, bad)
            self.skipped += 1
        if self._evaluated is not None:
            own = None if direction is self.flat.gradient else direction
            step.evaluated = Evaluated(*self._evaluated, own)
            self._evaluated = None  # a batch lives no longer than its step
        if self.observer is not None:
            self.observer(self, step)
        return step

    def _apply(self, direction: Tensor, step: Step) -> None:
        self.updates += 1
        step.update = self.updates
        recording = self.statistics.due(self.updates)
        if recording:
            self.statistics.before(direction)
        if self.statistics.due(self.updates + 1):
            self.statistics.remember(direction)
        limit = self.config.max_grad_norm
        if limit is not None and step.grad_norm > limit:
            direction.mul_(limit / step.grad_norm)
            step.clipped = True
        if self.config.decay:
            self._decaying.mul_(1.0 - step.lr * self.config.decay)
        optimizers.step(self.config, self.flat.vector, direction, self.moments, step.lr)
        if recording:
            step.record = self.statistics.after(self.moments, step.grad_norm, step.aux)

    @property
    def _decaying(self) -> Tensor:
        return self.flat.vector[: self.flat.decaying]

    def penalties(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The L1 and L2 penalties there are: each one's value and its gradient `(decaying,)`."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        l1, l2 = self.config.l1, self.config.l2
        if l1 or l2:  # else nothing is spent on them: every update asks
            weights = self._decaying
            if l1:
                found["l1"] = l1 * weights.abs().sum(), l1 * weights.sign()
            if l2:
                found["l2"] = 0.5 * l2 * weights.square().sum(), l2 * weights
        return found

    def _locate(self, direction: Tensor, terms: Mapping[str, float], buffers: list[str]) -> str:
        """Names the first loss term, layer (in forward order) and statistic that are not finite."""
        found = [f"loss term {name!r}" for name, v in terms.items() if not math.isfinite(v)][:1]
        bad = {
            segment.layer
            for segment in self.flat.segments
            if not direction[segment.start : segment.stop].isfinite().all()
        }
        found += [f"layer {layer!r}" for layer in self.statistics.layers if layer in bad][:1]
        found += [f"statistic {name!r}" for name in buffers[:1]]
        return ", ".join(found) or "gradient norm"  # every entry finite, their squares overflow

    def functional(self, loss: Loss) -> Callable[..., Any]:
        """`loss` as a function of a flat weight vector: `f(vector, *inputs) -> (terms, aux)`.

        It can be differentiated, stacked with `torch.func.vmap` and compiled.
        """
        holder = _Holder(self.modules, loss)
        prefix = "modules_by_name."

        def evaluate(vector: Tensor, *inputs: Any) -> Any:
            weights = {prefix + n: w for n, w in self.flat.split(vector).items()}
            return functional_call(holder, weights, inputs)

        return evaluate

    def hessian(self, loss: Loss, *inputs: Any) -> Callable[[Tensor], Tensor]:
        """The loss's Hessian here, as its product with a flat vector (Pearlmutter 1994).

        The gradient is differentiated once; each product is one more backward pass through it.
        """
        parameters = self.flat.parameters
        total = _total(loss(*inputs)[0])
        gradients = torch.autograd.grad(
            total, parameters, create_graph=True, materialize_grads=True
        )

        # The gradient of what a loss is linear in is constant: it has nothing to differentiate.
        curved = [i for i, gradient in enumerate(gradients) if gradient.requires_grad]

        def product(vector: Tensor) -> Tensor:
            if not curved:
                return torch.zeros_like(vector)
            directions = tuple(self.flat.split(vector).values())
            with torch.enable_grad():
                products = torch.autograd.grad(
                    [gradients[i] for i in curved],
                    parameters,
                    [directions[i] for i in curved],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            return torch.cat([part.reshape(-1) for part in products])

        return product

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments and counters: all that later steps depend on."""
        return {
            "vector": self.flat.vector.clone(),
            "buffers": _saved_buffers(self.modules),
            "moments": {name: moment.clone() for name, moment in self.moments.items()},
            "updates": self.updates,
            "skipped": self.skipped,
            "env_steps": self.env_steps,
            "planned": self.planned,
            "lr_scale": self.lr_scale,
            "previous_gradient": self.statistics.previous,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave. Raises ValueError if it does not fit the modules."""
        vector = torch.as_tensor(state["vector"])
        if vector.shape != self.flat.vector.shape:
            raise ValueError(
                f"learner {self.name!r} has {self.flat.vector.numel()} weights, the state given "
                f"has {vector.numel()}: it was saved with another network"
            )
        self.flat.vector.copy_(vector)
        _restore_buffers(self.modules, state["buffers"])
        for name, moment in self.moments.items():
            moment.copy_(torch.as_tensor(state["moments"][name]))
        for name in ("updates", "skipped", "env_steps", "planned", "lr_scale"):
            setattr(self, name, state[name])
        previous = state["previous_gradient"]
        self.statistics.previous = (
            None if previous is None else torch.as_tensor(previous).to(self.flat.vector.device)
        )


class Target:
    """A frozen copy of a learner's modules that follows its weights in one operation."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.modules = {name: free_copy(module) for name, module in learner.modules.items()}
        flat = FlatParameters(self.modules)
        self.vector = flat.vector
        for parameter in flat.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None

    @torch.no_grad()
    def follow(self, tau: float = 1.0) -> None:
        """Move a share `tau` of the way to the learner's weights; 1 copies them."""
        if tau == 1.0:
            self.vector.copy_(self._learner.flat.vector)
        else:
            self.vector.lerp_(self._learner.flat.vector, tau)
        for name, module in self.modules.items():
            sources = dict(self._learner.modules[name].named_buffers())
            for key, buffer in module.named_buffers():
                buffer.copy_(sources[key])

    def state_dict(self) -> dict[str, Any]:
        """The target's weights and buffers."""
        return {"vector": self.vector.clone(), "buffers": _saved_buffers(self.modules)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        self.vector.copy_(torch.as_tensor(state["vector"]))
        _restore_buffers(self.modules, state["buffers"])


def _saved_buffers(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": buffer.clone()
        for key, module in modules.items()
        for name, buffer in module.named_buffers()
    }


def _restore_buffers(modules: Mapping[str, nn.Module], saved: Mapping[str, Any]) -> None:
    for key, module in modules.items():
        for name, buffer in module.named_buffers():
            buffer.copy_(torch.as_tensor(saved[f"{key}.{name}"]))


class _Holder(nn.Module):
    """Gives `functional_call` one module that holds the learner's and calls the loss."""

    def __init__(self, modules: Mapping[str, nn.Module], loss: Loss) -> None:
        super().__init__()
        self.modules_by_name = nn.ModuleDict(modules)
        self.loss = loss

    def forward(self, *inputs: Any) -> Any:
        return self.loss(*inputs)


def _backward(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> None:
    """Adds the gradient of the sum of the terms to `.grad` of these parameters, of no others.

    torch.autograd.backward does the same; what it checks first, in Python, takes a tenth of a whole
    update of a small network.
    """
    roots = tuple([term for term in terms.values() if term.requires_grad])
    if not roots:
        raise ValueError(f"no loss term of {', '.join(terms)} depends on a trained parameter")
    torch.autograd.Variable._execution_engine.run_backward(
        roots,
        tuple([torch.ones_like(root) for root in roots]),
        False,  # keep_graph
        False,  # create_graph
        tuple(parameters),
        allow_unreachable=True,
        accumulate_grad=True,
    )


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    first, *rest = terms.values()
    for term in rest:
        first = first + term
    return first


def free_copy(module: M) -> M:
    """A copy that no learner has, with storage of its own: weights are views of one's vector."""
    twin = copy.deepcopy(module)
    for parameter in twin.parameters():
        parameter.data = parameter.data.clone()
        parameter.__dict__.pop("is_flat", None)
    return twin
