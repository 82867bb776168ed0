"""Network: one trunk, named heads, built from the spaces. The same options serve every agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from agents.core.blocks import (
    SMALLEST,
    ConvTrunk,
    Dense,
    HiddenLayer,
)
from agents.core.files import check_types
from agents.core.initialization import Init
from agents.core.spaces import Observations

Activation = Literal["tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid"]


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is built of. The hidden layers give way to a trunk of the user's own."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden layer of the trunk; none for heads that are linear in the features."""
    activation: Activation = "tanh"
    """Nonlinearity after each hidden layer, and after each convolution."""
    conv: Literal["auto", "none", "nature", "impala", "minatar"] = "auto"
    """Convolutions before the hidden layers. nature: 32 8×8/4, 64 4×4/2, 64 3×3 (Mnih et al. 2015).
    minatar: 16 3×3 (Young & Tian 2019). impala: residual stages of 16, 32, 32 (Espeholt et al.
    2018). auto: nature for images of at least 36×36, minatar for smaller ones, else none."""
    norm: Literal["none", "layer"] = "none"
    """Normalisation before each activation (Ba et al. 2016)."""
    residual: bool = False
    """Add each hidden layer's input to its output (He et al. 2016); from the second layer on."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit while learning; nothing is dropped while acting."""
    init: Init = "orthogonal"
    """How weights begin."""
    noisy: bool = False
    """Noise with a trained spread on all dense layers (Fortunato et al. 2018), which explores in
    the place of random actions; for agents that value actions from a replay."""
    shared_trunk: bool = True
    """One trunk for all heads, or one of its own for each head."""

    def __post_init__(self) -> None:
        check_types(self, "network.")
        if self.conv == "impala" and self.norm != "none":
            raise ValueError(
                f"network.norm is {self.norm!r}, which network.conv={self.conv!r} knows no place "
                "for: use none, or another network.conv"
            )
        if min(self.hidden_sizes, default=1) < 1:
            raise ValueError(
                f"network.hidden_sizes is {self.hidden_sizes}: give sizes of at least 1"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"network.dropout is {self.dropout}: use a probability in [0, 1)")
        if self.noisy and (self.dropout or not self.shared_trunk):
            raise ValueError(
                "network.noisy goes with one trunk without dropout: set network.dropout=0 and "
                "network.shared_trunk=True"
            )
        if (self.residual and len(set(self.hidden_sizes)) > 1) or (
            self.residual and len(self.hidden_sizes) < 2
        ):
            raise ValueError(
                f"network.residual needs two or more hidden layers of one size, "
                f"hidden_sizes is {self.hidden_sizes}"
            )
        if not self.hidden_sizes:
            for name, neutral in (("norm", "none"), ("dropout", 0.0), ("shared_trunk", True)):
                if (value := getattr(self, name)) != neutral:
                    raise ValueError(
                        f"network.{name} is {value}, which has no effect without hidden layers: "
                        f"use {neutral}, or give hidden_sizes"
                    )


@dataclass(frozen=True)
class Head:
    """What a head gives out: `size` numbers, or with size None a scalar of shape `(...,)`.

    With `atoms` it gives so many numbers for each of `size` actions, `(..., size, atoms)`. With
    `cosines` it reads quantile fractions τ `(..., N)` too and gives `(..., size, N)`.
    """

    size: int | None
    gain: float = 1.0
    """Scale of the initial weights; 0.01 begins a policy close to uniform."""
    log_std: float | None = None
    """If given, a trained vector beginning at this value is appended: `(..., 2 size)`."""
    atoms: int | None = None
    """Numbers for each action: probabilities of a support, or quantiles."""
    cosines: int = 0
    """Features cos(π i τ) that quantile fractions are embedded by (Dabney et al. 2018, 64)."""
    dueling: bool = False
    """V(s) + A(s, a) - mean_a A(s, a) in the place of Q(s, a) (Wang et al. 2016)."""
    members: int | None = None
    """If given, the head is an ensemble of so many, as one stack: `(members, ..., size)`."""

    def __post_init__(self) -> None:
        if self.members is None:
            return
        if self.members < 2:
            raise ValueError(f"members is {self.members}: an ensemble has 2 or more")
        for name, neutral in (
            ("log_std", None),
            ("atoms", None),
            ("cosines", 0),
            ("dueling", False),
        ):
            if (value := getattr(self, name)) != neutral:
                raise ValueError(f"{name} is {value}: an ensemble has none, use {neutral}")

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
        if config.noisy and any(spec.members for spec in specs.values()):
            raise ValueError(
                "network.noisy has no place in an ensemble, which explores by its members: "
                "leave it False"
            )
        names = {name: spec.names(name) for name, spec in specs.items()}
        own = tuple(f"{member}.trunk" for members in names.values() for member in members)
        if not self.shared and len(own) == 1:
            raise ValueError(
                f"network.shared_trunk=False needs two or more heads; this network has only "
                f"{next(iter(specs))!r}: leave it True"
            )
        self.conv: ConvTrunk | None = None
        if trunk is not None:
            features = _features_of(trunk, config)
            self.trunk = trunk
        else:
            members = ("trunk",) if self.shared else own
            self.conv = _convolutions(self.observations, config, members, generator)
            sizes = (
                self.conv.out_features if self.conv else self.observations.features,
                *config.hidden_sizes,
            )
            features = sizes[-1]
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
                    noisy=config.noisy,
                )
                for depth, (inputs, outputs) in enumerate(pairwise(sizes))
            )
        # A tuple beside the registered list: looking a module up in its parent takes microseconds.
        self._layers = tuple(self.trunk) if isinstance(self.trunk, nn.ModuleList) else None
        self.heads = nn.ModuleDict(
            {
                name: _HeadLayer(features, spec, name, config, generator)
                for name, spec in specs.items()
            }
        )
        # In the order of their noise. Those of a trunk of the user's own are none of ours.
        layers = (*(self._layers or ()), *self.heads.values()) if config.noisy else ()
        self.noisy = tuple(layer for layer in layers if isinstance(layer, Dense))
        """The noisy layers."""
        self.trunks = 1 if self.shared else len(own)
        """Trunks, those of an ensemble's members counted each."""
        counts = [spec.members or 1 for spec in specs.values()]
        self._counts = counts if max(counts) > 1 else None

    def forward(
        self,
        obs: Tensor,
        noise: Sequence[Tensor] | None = None,
        only: str | None = None,
        tau: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The heads' outputs for observations `(..., size)`; with `only` just that head's.

        `noise` comes from `sample_noise` and switches dropout or noisy layers on; `tau` `(..., N)`,
        or `(N,)` for all alike, are the quantile fractions that a head with `cosines` is asked for.
        """
        x = self.observations.expand(obs)
        heads = self.heads.items() if only is None else ((only, self.heads[only]),)
        if self.shared:
            features = self._through_trunk(x if self.conv is None else self.conv(x), noise)
            if self.config.noisy and noise:
                noise_of = dict(zip(self.heads, noise[-len(self.heads) :], strict=True))
                return {name: head(features, noise_of[name], tau) for name, head in heads}
            return {name: head(features, None, tau, True) for name, head in heads}
        lead, members = x.shape[:-1], self.trunks
        if len(lead) != 1:
            x = x.reshape(-1, x.shape[-1])
        if noise:
            noise = [u.reshape(-1, members, u.shape[-1]).movedim(1, 0) for u in noise]
        x = x.expand(members, -1, -1) if self.conv is None else self.conv(x)
        stacked = self._through_trunk(x, noise)  # (E, B, features)
        if len(lead) != 1:
            stacked = stacked.reshape(members, *lead, stacked.shape[-1])
        if self._counts is None:
            parts: Sequence[Tensor] = stacked.unbind()
        else:  # an ensemble's features stay one stack
            parts = [part.squeeze(0) for part in stacked.split(self._counts)]
        features_of = dict(zip(self.heads, parts, strict=True))
        return {name: head(features_of[name], None, tau) for name, head in heads}

    def _through_trunk(self, x: Tensor, noise: Sequence[Tensor] | None) -> Tensor:
        if self._layers is None:
            return self.trunk(x)
        for depth, layer in enumerate(self._layers):
            x = layer(x, noise[depth] if noise else None)
        return x

    def sample_noise(
        self, lead: tuple[int, ...], generator: torch.Generator
    ) -> list[Tensor] | None:
        """The noise for a batch with these leading axes; None where nothing is random.

        For dropout uniform noise, a tensor for each hidden layer: `(*lead, size)`, or with E
        separate trunks `(*lead, E, size)`. For noisy layers a vector for each layer, heads last;
        a batch shares it.
        """
        if self.noisy:
            sizes = [layer.inputs + layer.outputs for layer in self.noisy]
            device = generator.device
            drawn = torch.randn(sum(sizes), generator=generator, device=device)
            return _factors(drawn, sizes)
        if not self.config.dropout:
            return None
        if not self.shared:
            lead = (*lead, self.trunks)
        device = generator.device
        return [
            torch.rand(*lead, size, generator=generator, device=device)
            for size in self.config.hidden_sizes
        ]

    def sample_exploration(self, rng: np.random.Generator) -> list[Tensor] | None:
        """The noise of noisy layers for one step of acting, from an actor's random stream."""
        if not self.noisy:
            return None
        sizes = [layer.inputs + layer.outputs for layer in self.noisy]
        drawn = torch.from_numpy(rng.standard_normal(sum(sizes), np.float32))
        return _factors(drawn.to(self.noisy[0].weight.device), sizes)


class _HeadLayer(Dense):
    """The last layer: numbers, a scalar without a trailing axis, or what else `Head` asks for.

    An ensemble reads features of its own for each member, `(members, ..., features)`, or `shared`
    ones, `(..., features)`.
    """

    def __init__(
        self,
        inputs: int,
        head: Head,
        name: str,
        config: NetworkConfig,
        generator: torch.Generator,
    ) -> None:
        size, names = head.size or 1, tuple(f"{own}.head" for own in head.names(name))
        outputs = (size + head.dueling) * (head.atoms or 1)  # a dueling head's first is the value
        super().__init__(inputs, outputs, names, config.init, head.gain, generator, config.noisy)
        self.head = head
        self.log_std = self.embedding = None
        if head.log_std is not None:
            self.log_std = nn.Parameter(torch.full((size,), head.log_std))
        if head.cosines:
            names = (f"{name}.embedding",)
            self.embedding = Dense(head.cosines, inputs, names, config.init, 2**0.5, generator)
        # Not a buffer, which would be saved: it follows from the head.
        self.frequencies = torch.pi * torch.arange(head.cosines)

    def forward(
        self,
        x: Tensor,
        noise: Tensor | None = None,
        tau: Tensor | None = None,
        shared: bool = False,
    ) -> Tensor:
        head = self.head
        if self.embedding is not None and tau is not None:
            cosines = torch.cos(tau.unsqueeze(-1) * self.frequencies.to(tau.device))
            x = x.unsqueeze(-2) * torch.relu(self.embedding(cosines))  # (..., N, features)
        if self.members == 1:
            y = self.affine(x, noise)
        else:
            if shared:
                x = x.expand(self.members, *x.shape)
            y = self.affine(x.reshape(self.members, -1, x.shape[-1]))
            y = y.reshape(*x.shape[:-1], -1)
        if y.dtype == torch.bfloat16:  # a loss goes on in full precision
            y = y.float()
        if head.size is None:
            return y.squeeze(-1)
        if self.log_std is not None:
            return torch.cat([y, self.log_std.expand_as(y)], dim=-1)
        if head.atoms is not None:
            y = y.unflatten(-1, (-1, head.atoms))
        elif head.cosines:
            y = y.mT
        if head.dueling:
            axis = -1 if head.atoms is None and not head.cosines else -2
            value, advantage = y.split([1, head.size], dim=axis)
            return value + advantage - advantage.mean(axis, keepdim=True)
        return y


def _factors(drawn: Tensor, sizes: list[int]) -> list[Tensor]:
    """f(x) = sgn(x) √|x| of standard normal noise, a vector for each layer."""
    return list((drawn.sign() * drawn.abs().sqrt()).split(sizes))


def _as_head(spec: Head | int | str) -> Head:
    if isinstance(spec, Head):
        return spec
    return Head(None) if spec == "scalar" else Head(int(spec))


def _convolutions(
    observations: Observations,
    config: NetworkConfig,
    members: tuple[str, ...],
    generator: torch.Generator,
) -> ConvTrunk | None:
    """What `config.conv` says for these observations. Raises ValueError where it does not fit."""
    image, kind = observations.image, config.conv
    side = min(image.height, image.width) if image else 0
    if kind == "auto":
        kind = "nature" if side >= SMALLEST["nature"] else "minatar"
        kind = kind if side >= SMALLEST["minatar"] else "none"
    if kind == "none":
        return None
    if image is None or side < SMALLEST[kind]:
        least = SMALLEST[kind]
        raise ValueError(
            f"network.conv is {kind!r}, which reads images (C, H, W) or (H, W, C) of at least "
            f"{least}×{least}: use auto or none for {observations.space}"
        )
    return ConvTrunk(
        kind,
        image,
        tuple(f"{member}.conv" for member in members),
        config.init,
        2**0.5,
        generator,
        activation=config.activation,
        layer_norm=config.norm == "layer",
    )


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
