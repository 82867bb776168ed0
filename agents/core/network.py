"""Network: one trunk, named heads, built from the spaces. The same options serve every agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from agents.core.batch_renorm import BatchRenorm
from agents.core.blocks import (
    SMALLEST,
    ConvTrunk,
    Dense,
    HiddenLayer,
)
from agents.core.files import check_types
from agents.core.initialization import Init
from agents.core.recurrent import History, Recurrent
from agents.core.residual import LayerNorm, ResidualBlock
from agents.core.spaces import Observations, bytes_of_image

LEAST_VARIANCE = 1e-6
"""Added to the variance of noise that is made of features: these may all be 0."""
FORBIDDEN = -1e30
"""The logit or the value of an action that is not allowed; no -inf, of which 0 log 0 and 0 times a
value would make NaN."""
Array = TypeVar("Array", Tensor, np.ndarray)
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
    block: Literal["plain", "simba"] = "plain"
    """What each of hidden_sizes makes: a layer, or a residual, layer-normalised block of that width
    which is four times as wide inside (Lee et al. 2024)."""
    norm: Literal["none", "layer", "batch_renorm"] = "none"
    """layer: normalisation before each activation (Ba et al. 2016). batch_renorm: of what the first
    hidden layer reads and of what each gives, over the batch while learning (Bhatt et al. 2024);
    for agents whose losses hand the statistics back."""
    residual: bool = False
    """Add each hidden layer's input to its output (He et al. 2016); from the second layer on."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit while learning; nothing is dropped while acting."""
    init: Init = "orthogonal"
    """How weights begin."""
    noisy: bool = False
    """Noise with a trained spread on all dense layers, but for the embedding of IQN's fractions
    (Fortunato et al. 2018), which explores beside random actions or, where epsilon is 0, in their
    place; for DQN and its kin. A step of acting has one noise for all environments."""
    shared_trunk: bool = True
    """One trunk for all heads, or one of its own for each head."""
    recurrent: Literal["none", "gru", "lstm"] = "none"
    """A layer after the hidden ones that remembers what was seen earlier in the episode, in each
    trunk (GRU: Cho et al. 2014, LSTM: Hochreiter & Schmidhuber 1997)."""
    recurrent_size: int | None = None
    """Units of the recurrent layer; None: as many as the last hidden layer has."""

    def __post_init__(self) -> None:
        check_types(self, "network.")
        if self.conv == "impala" and self.norm == "layer":
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
        if self.block == "simba":
            self._check_simba()
        if self.residual and self.norm == "batch_renorm":
            raise ValueError(
                "network.residual adds what was not normalised to what was with "
                "network.norm='batch_renorm': set residual=False, or norm to layer or none"
            )
        if self.recurrent == "none":
            if self.recurrent_size is not None:
                raise ValueError(
                    f"network.recurrent_size is {self.recurrent_size}, which has no effect without "
                    "a recurrent layer: use None, or network.recurrent gru or lstm"
                )
        elif self.memory_size < 1:
            raise ValueError(
                f"network.recurrent_size is {self.recurrent_size}: use 1 or more, or None with "
                "hidden layers"
            )
        elif self.dropout or self.noisy:
            raise ValueError(
                "network.recurrent goes without dropout and noisy layers: its states while "
                "learning have to be those while acting"
            )
        uneven = len(self.hidden_sizes) < 2 or len(set(self.hidden_sizes)) > 1
        if self.residual and uneven:
            raise ValueError(
                f"network.residual needs two or more hidden layers of one size, "
                f"hidden_sizes is {self.hidden_sizes}"
            )
        if not self.hidden_sizes:
            for name, neutral in (("norm", "none"), ("dropout", 0.0), ("shared_trunk", True)):
                if name == "shared_trunk" and self.recurrent != "none":
                    continue
                if (value := getattr(self, name)) != neutral:
                    raise ValueError(
                        f"network.{name} is {value}, which has no effect without hidden layers: "
                        f"use {neutral}, or give hidden_sizes"
                    )

    def _check_simba(self) -> None:
        for name, neutral in (("norm", "none"), ("residual", False), ("noisy", False)):
            if (value := getattr(self, name)) != neutral:
                raise ValueError(
                    f"network.{name} is {value!r}, which network.block='simba' has no place for "
                    f"beside its own norms and sums: leave it {neutral!r}"
                )
        if len(set(self.hidden_sizes)) != 1:
            raise ValueError(
                "network.block='simba' needs one or more blocks of one width, hidden_sizes is "
                f"{self.hidden_sizes}"
            )

    @property
    def memory_size(self) -> int:
        """Units of the recurrent layer."""
        size = self.recurrent_size
        return size if size is not None else self.hidden_sizes[-1] if self.hidden_sizes else 0


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
    log_stds: int | None = None
    """The length of that vector, where it is not `size`."""
    gsde: bool = False
    """What is appended is the log standard deviation of noise φ(s) ε, ε drawn with a standard
    deviation for each feature and number that begins at exp(log_std) (Raffin et al. 2022)."""
    masked: bool = False
    """Where the observation has an `action_mask`, the numbers of actions that it forbids are
    `FORBIDDEN`: their probability is 0, none is the best, and they have no gradient. One that
    forbids all, as after the end of an episode, is not heeded: there is nothing to choose."""
    choices: tuple[int, ...] | None = None
    """Of how many actions each of several choices is, where the numbers are of more than one: a
    mask may forbid all of one."""
    atoms: int | None = None
    """Numbers for each action: probabilities of a support, or quantiles."""
    cosines: int = 0
    """Features cos(π i τ) that quantile fractions are embedded by (Dabney et al. 2018, 64)."""
    dueling: bool = False
    """V(s) + A(s, a) - mean_a A(s, a) in the place of Q(s, a) (Wang et al. 2016)."""
    members: int | None = None
    """If given, the head is an ensemble of so many, as one stack: `(members, ..., size)`. One of 1
    has that axis too."""

    def __post_init__(self) -> None:
        if self.members is None:
            return
        if self.members < 1:
            raise ValueError(f"members is {self.members}: an ensemble has 1 or more")
        for name, neutral in (
            ("log_std", None),
            ("log_stds", None),
            ("gsde", False),
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
    they run as one stack. An ensemble of one, with no head beside it, has one trunk either way.
    A `trunk` of the user's own (features in, features out, with an `out_features` attribute)
    replaces the built one. With an `action_size` the hidden layers read that many numbers of an
    action too, behind the observation's: a critic Q(s, a).

    With `config.recurrent` a row depends on what was seen before it: `forward` reads a `History`
    too, and `begin` and `carry_on` act with it.

    Raises ValueError for a space that is not supported or options that make no sense together.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        heads: Mapping[str, Head | int | Literal["scalar"]],
        config: NetworkConfig | None = None,
        generator: torch.Generator | None = None,
        trunk: nn.Module | None = None,
        action_size: int = 0,
    ) -> None:
        super().__init__()
        config = config or NetworkConfig()
        generator = generator or torch.Generator().manual_seed(0)
        self.observations = Observations(observation_space)
        self.config = config
        self.action_size = action_size
        """Numbers of an action that it reads; 0 for a network of observations alone."""
        specs = {name: _as_head(spec) for name, spec in heads.items()}
        alone = [spec.members for spec in specs.values()] == [1]
        self.shared = config.shared_trunk or alone
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
        members = ("trunk",) if self.shared else own
        if trunk is not None:
            features = _features_of(trunk, config, self.observations.features + action_size)
            self.trunk = trunk
        else:
            self.conv = _convolutions(self.observations, config, members, generator)
            inputs = self.conv.out_features if self.conv else self.observations.features
            sizes = (inputs + action_size, *config.hidden_sizes)
            features = sizes[-1]
            self.trunk = nn.ModuleList(_trunk(sizes, members, config, generator))
        self.memory: Recurrent | None = None
        """The recurrent layer."""
        if config.recurrent != "none":
            units = config.memory_size
            named = tuple(member.replace("trunk", config.recurrent) for member in members)
            self.memory = Recurrent(
                config.recurrent, features, units, named, config.init, generator
            )
            features = units
        # A tuple beside the registered list: looking a module up in its parent takes microseconds.
        self._layers = tuple(self.trunk) if isinstance(self.trunk, nn.ModuleList) else None
        self._takes_noise = [isinstance(i, HiddenLayer | ResidualBlock) for i in self._layers or ()]
        self._renorms = {
            i: layer for i, layer in enumerate(self._layers or ()) if isinstance(layer, BatchRenorm)
        }
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
        self._masked = _masked(self.observations, specs)

    def forward(
        self,
        obs: Tensor | History,
        noise: Sequence[Tensor] | None = None,
        only: str | None = None,
        tau: Tensor | None = None,
        action: Tensor | None = None,
        statistics: dict[str, Tensor] | None = None,
        gsde: Tensor | None = None,
        state: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The heads' outputs for observations `(..., size)`; with `only` just that head's.

        A network with an `action_size` is given actions `(..., action_size)`.

        `noise` comes from `sample_noise` and switches dropout or noisy layers on; `tau` `(..., N)`,
        or `(N,)` for all alike, are the quantile fractions that a head with `cosines` is asked for.
        Given a dict for its `statistics`, a network with batch_renorm normalises over this batch,
        and puts in the dict what its buffers become by it, by name: the loss hands that back in
        its aux, and the learner commits it. Without, it normalises by the buffers.
        `gsde` `(..., features, size)` are standard normal factors that move the means of a head
        with `gsde`.

        A recurrent network takes each observation for a step from its own `state`
        `(..., state size)`, or for the first of an episode without one, and gives out the "state"
        after it too. Of a `History` it gives the rows asked for.
        """
        if self.memory is not None:
            outputs = self._remembering(self.memory, obs, only, state, gsde)
        elif isinstance(obs, History):
            raise ValueError("a History is for a network with network.recurrent")
        else:
            outputs = self._outputs(obs, noise, only, tau, action, statistics, gsde)
        if self._masked:
            rows = obs.obs.flatten(0, 1)[obs.rows] if isinstance(obs, History) else obs
            allowed = rows[..., self.observations.mask] > 0
            for name in self._masked.keys() & outputs.keys():
                head = self._masked[name]
                parts = allowed.split(head.choices or allowed.shape[-1], -1)
                own = torch.cat([part | ~part.any(-1, keepdim=True) for part in parts], -1)
                own = own.unsqueeze(-1) if head.atoms or head.cosines else own
                outputs[name] = torch.where(own, outputs[name], FORBIDDEN)
        return outputs

    def features(self, head: str) -> int:
        """How many features a head reads."""
        return int(self.heads[head].inputs)  # type: ignore[arg-type]

    def _outputs(
        self,
        obs: Tensor,
        noise: Sequence[Tensor] | None,
        only: str | None,
        tau: Tensor | None,
        action: Tensor | None,
        statistics: dict[str, Tensor] | None,
        gsde: Tensor | None,
    ) -> dict[str, Tensor]:
        x = self.observations.expand(obs)
        heads = self.heads.items() if only is None else ((only, self.heads[only]),)
        if self.shared:
            x = x if self.conv is None else self.conv(x)
            x = x if action is None else _joined(x, action)
            features = self._through_trunk(x, noise, statistics)
            if self.config.noisy and noise:
                noise_of = dict(zip(self.heads, noise[-len(self.heads) :], strict=True))
                return {name: head(features, noise_of[name], tau) for name, head in heads}
            return {name: head(features, None, tau, True, gsde) for name, head in heads}
        lead, members = x.shape[:-1], self.trunks
        if len(lead) != 1:
            x = x.reshape(-1, x.shape[-1])
        if noise:
            noise = [u.reshape(-1, members, u.shape[-1]).movedim(1, 0) for u in noise]
        x = x if self.conv is None else self.conv(x)
        if action is not None:
            x = _joined(x, action.reshape(-1, action.shape[-1]))
        x = x if x.ndim == 3 else x.expand(members, -1, -1)
        stacked = self._through_trunk(x, noise, statistics)  # (E, B, features)
        if len(lead) != 1:
            stacked = stacked.reshape(members, *lead, stacked.shape[-1])
        if self._counts is None:
            parts: Sequence[Tensor] = stacked.unbind()
        else:  # an ensemble's features stay one stack
            parts = [part.squeeze(0) for part in stacked.split(self._counts)]
        features_of = dict(zip(self.heads, parts, strict=True))
        return {name: head(features_of[name], None, tau, False, gsde) for name, head in heads}

    def _remembering(
        self,
        memory: Recurrent,
        obs: Tensor | History,
        only: str | None,
        state: Tensor | None,
        gsde: Tensor | None,
    ) -> dict[str, Tensor]:
        if isinstance(obs, History):
            x, state, start, rows = obs
            lead = rows.shape
        else:  # a sequence of one row, of as many environments as there are observations
            lead, start, rows = obs.shape[:-1], None, None
            x = obs.reshape(1, -1, obs.shape[-1])
            size = memory.state_size
            if state is None:  # of the start; observations may be bytes
                state = torch.zeros(1, device=obs.device).expand(x.shape[1], size)
            state = state.reshape(-1, size)
        steps, x = x.shape[:2], self.observations.expand(x.flatten(0, 1))
        if self.conv is not None:
            x = self.conv(x)
        elif not self.shared:
            x = x.expand(self.trunks, -1, -1)
        features, after = memory(self._through_trunk(x).unflatten(-2, steps), state, start)
        features = features.flatten(-3, -2)  # ([E,] T N, size)
        if rows is not None:
            features = features.index_select(-2, rows)
        features = features.reshape(*features.shape[:-2], *lead, features.shape[-1])
        if self.shared:
            parts = [features] * len(self.heads)
        else:
            counts = self._counts or [1] * len(self.heads)
            parts = [part.squeeze(0) for part in features.split(counts)]
        output = {
            name: head(part, None, None, self.shared, gsde)
            for (name, head), part in zip(self.heads.items(), parts, strict=True)
            if only in (None, name)
        }
        return output | {"state": after.reshape(*lead, -1) if rows is None else after}

    def begin(self, count: int) -> dict[str, np.ndarray]:
        """What each of `count` environments carries into an episode: for `Agent.begin`."""
        if self.memory is None:
            return {}
        return {"state": np.zeros((count, self.memory.state_size), np.float32)}

    def carry_on(
        self,
        obs: Tensor,
        carried: dict[str, np.ndarray],
        only: str,
        gsde: Tensor | None = None,
    ) -> Tensor:
        """A head's output for one step `(N, size)`; the state in `carried` is moved on."""
        if self.memory is None:
            return self(obs, only=only, gsde=gsde)[only]
        state = torch.from_numpy(carried["state"]).to(obs.device)
        output = self(obs, only=only, state=state, gsde=gsde)
        carried["state"] = output["state"].cpu().numpy()
        return output[only]

    def _through_trunk(
        self,
        x: Tensor,
        noise: Sequence[Tensor] | None = None,
        statistics: dict[str, Tensor] | None = None,
    ) -> Tensor:
        if self._layers is None:
            return self.trunk(x)
        drawn = iter(noise or ())
        for i, layer in enumerate(self._layers):
            if noise and self._takes_noise[i]:
                x = layer(x, next(drawn))
            elif statistics is not None and i in self._renorms:
                x, new = self._renorms[i].learn(x)
                statistics |= {f"trunk.{i}.{name}": value for name, value in new.items()}
            else:
                x = layer(x)
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
        """The noise of noisy layers for one step of acting, from an actor's random stream.

        It is one for all environments, as one pass through the network values all of them.
        """
        if not self.noisy:
            return None
        sizes = [layer.inputs + layer.outputs for layer in self.noisy]
        drawn = torch.from_numpy(rng.standard_normal(sum(sizes), np.float32))
        return _factors(drawn.to(self.noisy[0].weight.device), sizes)


def _trunk(
    sizes: tuple[int, ...],
    members: tuple[str, ...],
    config: NetworkConfig,
    generator: torch.Generator,
) -> Iterator[nn.Module]:
    """The layers of a trunk, or of a stack of them, that reads `sizes[0]` features."""

    def names(part: object) -> tuple[str, ...]:
        return tuple(f"{member}.{part}" for member in members)

    if config.block == "simba":
        inputs, width, *_ = sizes
        yield Dense(inputs, width, names("projection"), config.init, 1.0, generator)
        for depth in range(len(sizes) - 1):
            yield ResidualBlock(
                width,
                names(depth),
                config.init,
                2**0.5,
                generator,
                activation=config.activation,
                dropout=config.dropout,
            )
        yield LayerNorm(width, names("norm"))
        return
    renorm = config.norm == "batch_renorm"
    if renorm and len(sizes) > 1:
        yield BatchRenorm(sizes[0], tuple(f"{m.removesuffix('trunk')}input" for m in members))
    for depth, (inputs, outputs) in enumerate(pairwise(sizes)):
        yield HiddenLayer(
            inputs,
            outputs,
            names(depth),
            config.init,
            2**0.5,
            generator,
            activation=config.activation,
            layer_norm=config.norm == "layer",
            residual=config.residual and depth > 0,
            dropout=config.dropout,
            noisy=config.noisy,
        )
        if renorm:
            yield BatchRenorm(outputs, names(depth))


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
            shape = (inputs, size) if head.gsde else (head.log_stds or size,)
            self.log_std = nn.Parameter(torch.full(shape, head.log_std))
        if head.cosines:
            names = (f"{name}.embedding",)
            self.embedding = Dense(head.cosines, inputs, names, config.init, 2**0.5, generator)

    def forward(
        self,
        x: Tensor,
        noise: Tensor | None = None,
        tau: Tensor | None = None,
        shared: bool = False,
        gsde: Tensor | None = None,
    ) -> Tensor:
        head = self.head
        if self.embedding is not None and tau is not None:
            frequencies = torch.pi * torch.arange(head.cosines, device=tau.device)
            cosines = torch.cos(tau.unsqueeze(-1) * frequencies)
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
        if head.members == 1:
            y = y.unsqueeze(0)
        if head.size is None:
            return y.squeeze(-1)
        if self.log_std is not None and head.gsde:
            features, std = x.detach(), self.log_std.exp()  # the features are not learned from it
            if gsde is not None:
                y = y + (features.unsqueeze(-2) @ (std * gsde)).squeeze(-2)
            with torch.autocast(x.device.type, enabled=False):  # or steps of the spread are lost
                variance = features.float().square() @ std.square()
                log_std = 0.5 * torch.log(variance + LEAST_VARIANCE)
            return torch.cat([y, log_std], dim=-1)
        if self.log_std is not None:
            return torch.cat([y, self.log_std.expand(*y.shape[:-1], -1)], dim=-1)
        if head.atoms is not None:
            y = y.unflatten(-1, (-1, head.atoms))
        elif head.cosines:
            y = y.mT
        if head.dueling:
            axis = -1 if head.atoms is None and not head.cosines else -2
            value, advantage = y.split([1, head.size], dim=axis)
            return value + advantage - advantage.mean(axis, keepdim=True)
        return y


def forbidden(values: Array) -> Array:
    """Where numbers of actions, or means of such, say that the action is not allowed."""
    return values <= FORBIDDEN / 2


def _joined(features: Tensor, action: Tensor) -> Tensor:
    """Features `(..., F)`, or a stack `(E, ..., F)`, with actions `(..., A)` behind them."""
    if features.ndim > action.ndim:
        action = action.expand(len(features), *action.shape)
    return torch.cat([features, action], dim=-1)


def _factors(drawn: Tensor, sizes: list[int]) -> list[Tensor]:
    """f(x) = sgn(x) √|x| of standard normal noise, a vector for each layer."""
    return list((drawn.sign() * drawn.abs().sqrt()).split(sizes))


def _masked(observations: Observations, specs: Mapping[str, Head]) -> dict[str, Head]:
    """The heads that heed the observation's mask. Raises ValueError where it does not fit one."""
    if observations.mask is None:
        return {}
    heads = {name: spec for name, spec in specs.items() if spec.masked}
    entries = observations.mask.stop - observations.mask.start
    for head in heads.values():
        if head.size != entries:
            raise ValueError(
                f"the observation's action_mask has {entries} entries, but there are "
                f"{head.size} actions to allow or forbid"
            )
    return heads


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
        if observations.image is None and any(bytes_of_image(part) for part in observations.parts):
            raise ValueError(
                "network.conv is 'auto', and an image in a Dict or a Tuple is read by no "
                f"convolution: give it alone, or use none to read pixels as numbers, for "
                f"{observations.space}"
            )
        kind = "nature" if side >= SMALLEST["nature"] else "minatar"
        kind = kind if side >= SMALLEST["minatar"] else "none"
    if kind == "none":
        return None
    if image is None:
        raise ValueError(
            f"network.conv is {kind!r}, which reads images (C, H, W) or (H, W, C), and the "
            f"observations are none: use auto or none for {observations.space}"
        )
    if side < (least := SMALLEST[kind]):
        raise ValueError(
            f"network.conv is {kind!r}, which reads images of at least {least}×{least}: use auto "
            f"or none for {observations.space}"
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


def _features_of(trunk: nn.Module, config: NetworkConfig, inputs: int) -> int:
    """How many features a trunk of the user's own makes of so many numbers of an observation."""
    if not isinstance(trunk, nn.Module):
        raise TypeError(
            f"a trunk of your own is {trunk!r}: give an nn.Module that reads observations of size "
            f"{inputs}"
        )
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
    device = next((parameter.device for parameter in trunk.parameters()), None)
    try:
        with torch.no_grad():
            trunk(torch.zeros(2, inputs, device=device))
    except RuntimeError as error:
        raise ValueError(
            f"a trunk of your own has to read observations of size {inputs}, (..., {inputs}): "
            f"{' '.join(str(error).split())}"
        ) from None
    return features
