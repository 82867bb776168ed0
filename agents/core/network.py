"""Network: one trunk, named heads, built from the spaces. The same options serve every agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from agents.core.blocks import ACTIVATIONS, Dense, HiddenLayer
from agents.core.initialization import Init
from agents.core.spaces import Observations

Activation = Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid"]


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is built of. The hidden layers give way to a trunk of the user's own."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden layer of the trunk."""
    activation: Activation = "tanh"
    """Nonlinearity after each hidden layer."""
    norm: Literal["none", "layer"] = "none"
    """Normalisation before each activation (Ba et al. 2016)."""
    residual: bool = False
    """Add each hidden layer's input to its output (He et al. 2016); from the second layer on."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit while learning; nothing is dropped while acting."""
    init: Init = "orthogonal"
    """How weights begin."""
    shared_trunk: bool = True
    """One trunk for all heads, or one of its own for each head."""

    def __post_init__(self) -> None:
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(
                f"network.hidden_sizes is {self.hidden_sizes}: give one or more sizes of at least 1"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"network.activation is {self.activation!r}: use {', '.join(ACTIVATIONS)}"
            )
        if self.norm not in ("none", "layer"):
            raise ValueError(f"network.norm is {self.norm!r}: use none or layer")
        if self.init not in ("orthogonal", "xavier", "he"):
            raise ValueError(f"network.init is {self.init!r}: use orthogonal, xavier or he")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"network.dropout is {self.dropout}: use a probability in [0, 1)")
        if (self.residual and len(set(self.hidden_sizes)) > 1) or (
            self.residual and len(self.hidden_sizes) < 2
        ):
            raise ValueError(
                f"network.residual needs two or more hidden layers of one size, "
                f"hidden_sizes is {self.hidden_sizes}"
            )


@dataclass(frozen=True)
class Head:
    """What a head gives out: `size` numbers, or with size None a scalar of shape `(...,)`."""

    size: int | None
    gain: float = 1.0
    """Scale of the initial weights; 0.01 begins a policy close to uniform."""
    log_std: float | None = None
    """If given, a trained vector beginning at this value is appended: `(..., 2 size)`."""
    members: int | None = None
    """If given, the head is an ensemble of so many, as one stack: `(members, ..., size)`."""

    def __post_init__(self) -> None:
        if self.members is not None and (self.members < 2 or self.log_std is not None):
            raise ValueError("an ensemble has 2 or more members, and no log_std")

    def names(self, name: str) -> tuple[str, ...]:
        """What the head of this name, or each of its members, is called in the statistics."""
        return (
            (name,) if self.members is None else tuple(f"{k}.{name}" for k in range(self.members))
        )


class Network(nn.Module):
    """A trunk and named heads: `forward(obs) -> {"policy": (..., A), "value": (...,)}`.

    `heads` maps a name to a `Head`, or for short to a size or to "scalar". With
    `config.shared_trunk` false every head, and every member of an ensemble, has a trunk of its own;
    they run as one stack.
    A `trunk` of the user's own (features in, features out, with an `out_features` attribute)
    replaces the built one.

    Raises ValueError for a space that is not supported or options that make no sense together.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        heads: Mapping[str, Head | int | Literal["scalar"]],
        config: NetworkConfig | None = None,
        generator: torch.Generator | None = None,
        trunk: nn.Module | None = None,
    ) -> None:
        super().__init__()
        config = config or NetworkConfig()
        generator = generator or torch.Generator().manual_seed(0)
        self.observations = Observations(observation_space)
        self.config = config
        specs = {name: _as_head(spec) for name, spec in heads.items()}
        self.shared = config.shared_trunk
        names = {name: spec.names(name) for name, spec in specs.items()}
        own = tuple(f"{member}.trunk" for members in names.values() for member in members)
        if not self.shared and len(own) == 1:
            raise ValueError(
                f"network.shared_trunk=False needs two or more heads; this network has only "
                f"{next(iter(specs))!r}: leave it True"
            )
        if trunk is not None:
            features = _features_of(trunk, config)
            self.trunk = trunk
        else:
            features = config.hidden_sizes[-1]
            members = ("trunk",) if self.shared else own
            self.trunk = nn.ModuleList(
                HiddenLayer(
                    inputs,
                    outputs,
                    tuple(f"{member}.{depth}" for member in members),
                    config.init,
                    2**0.5,
                    generator,
                    activation=config.activation,
                    layer_norm=config.norm == "layer",
                    residual=config.residual and depth > 0,
                    dropout=config.dropout,
                )
                for depth, (inputs, outputs) in enumerate(
                    zip(
                        (self.observations.features, *config.hidden_sizes),
                        config.hidden_sizes,
                        strict=False,
                    )
                )
            )
        # A tuple beside the registered list: looking a module up in its parent takes microseconds.
        self._layers = tuple(self.trunk) if isinstance(self.trunk, nn.ModuleList) else None
        self.heads = nn.ModuleDict(
            {
                name: _HeadLayer(features, spec, names[name], config.init, generator)
                for name, spec in specs.items()
            }
        )
        self.trunks = 1 if self.shared else len(own)
        sizes = [spec.members or 1 for spec in specs.values()]
        self._sizes = sizes if max(sizes) > 1 else None

    def forward(
        self, obs: Tensor, noise: Sequence[Tensor] | None = None, only: str | None = None
    ) -> dict[str, Tensor]:
        """The heads' outputs for observations `(..., size)`; with `only` just that head's.

        `noise` comes from `sample_noise` and switches dropout on.
        """
        x = self.observations.expand(obs)
        heads = self.heads.items() if only is None else ((only, self.heads[only]),)
        if self.shared:
            features = self._through_trunk(x, noise)
            return {name: head(features, True) for name, head in heads}
        lead, members = x.shape[:-1], self.trunks
        if len(lead) != 1:
            x = x.reshape(-1, x.shape[-1])
        if noise:
            noise = [u.reshape(-1, members, u.shape[-1]).movedim(1, 0) for u in noise]
        stacked = self._through_trunk(x.expand(members, -1, -1), noise)  # (E, B, features)
        if len(lead) != 1:
            stacked = stacked.reshape(members, *lead, stacked.shape[-1])
        if self._sizes is None:
            own = dict(zip(self.heads, stacked.unbind(), strict=True))
        else:
            parts = [part.squeeze(0) for part in stacked.split(self._sizes)]
            own = dict(zip(self.heads, parts, strict=True))
        return {name: head(own[name]) for name, head in heads}

    def _through_trunk(self, x: Tensor, noise: Sequence[Tensor] | None) -> Tensor:
        if self._layers is None:
            return self.trunk(x)
        for depth, layer in enumerate(self._layers):
            x = layer(x, noise[depth] if noise else None)
        return x

    def sample_noise(
        self, lead: tuple[int, ...], generator: torch.Generator
    ) -> list[Tensor] | None:
        """Uniform noise for dropout on a batch with these leading axes; None without dropout.

        A tensor for each hidden layer, `(*lead, size)`; with E separate trunks `(*lead, E, size)`.
        """
        if not self.config.dropout:
            return None
        if not self.shared:
            lead = (*lead, self.trunks)
        device = generator.device
        return [
            torch.rand(*lead, size, generator=generator, device=device)
            for size in self.config.hidden_sizes
        ]


class _HeadLayer(Dense):
    """The last layer: numbers, a scalar without a trailing axis, or means with a log_std.

    An ensemble reads features of its own for each member, `(members, ..., features)`, or `shared`
    ones, `(..., features)`.
    """

    def __init__(
        self,
        inputs: int,
        head: Head,
        names: tuple[str, ...],
        init: Init,
        generator: torch.Generator,
    ) -> None:
        names = tuple(f"{name}.head" for name in names)
        super().__init__(inputs, head.size or 1, names, init, head.gain, generator)
        self.scalar = head.size is None
        self.log_std = None
        if head.log_std is not None:
            self.log_std = nn.Parameter(torch.full((head.size or 1,), head.log_std))

    def forward(self, x: Tensor, shared: bool = False) -> Tensor:
        if self.members == 1:
            y = self.affine(x)
        else:
            if shared:
                x = x.expand(self.members, *x.shape)
            y = self.affine(x.reshape(self.members, -1, x.shape[-1]))
            y = y.reshape(self.members, *x.shape[1:-1], -1)
        if self.scalar:
            return y.squeeze(-1)
        if self.log_std is not None:
            return torch.cat([y, self.log_std.expand_as(y)], dim=-1)
        return y


def _as_head(spec: Head | int | str) -> Head:
    if isinstance(spec, Head):
        return spec
    return Head(None) if spec == "scalar" else Head(int(spec))


def _features_of(trunk: nn.Module, config: NetworkConfig) -> int:
    if not config.shared_trunk:
        raise ValueError(
            "a trunk of your own is shared by all heads: set network.shared_trunk=True"
        )
    if config.dropout:
        raise ValueError("network.dropout has no effect on a trunk of your own: leave it 0")
    for name, module in trunk.named_modules():
        if isinstance(module, (_BatchNorm, _DropoutNd)):
            raise ValueError(
                f"a trunk of your own cannot hold {name or 'a'} {type(module).__name__}: it would "
                "draw its own noise or change while acting; use LayerNorm, or a built trunk with "
                "network.dropout"
            )
    features = getattr(trunk, "out_features", None)
    if not isinstance(features, int):
        raise ValueError("a trunk of your own needs an integer attribute `out_features`")
    return features
