"""Convolutional trunks are the published ones, alone and in a stack, in either layout."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from agents import DQN, DQNConfig
from agents.core.blocks import ACTIVATIONS
from agents.core.initialization import initialize
from agents.core.learner import Learner
from agents.core.network import Network, NetworkConfig
from agents.core.optimizers import OptimConfig

FRAMES = spaces.Box(0, 255, (2, 37, 40), np.uint8)
CAMERA = spaces.Box(0, 255, (37, 40, 3), np.uint8)
BOOL: Any = np.bool_  # MinAtar's dtype, which the annotations of Box do not know
GRID = spaces.Box(0.0, 1.0, (10, 9, 4), dtype=BOOL)
FLOATS = spaces.Box(-1, 1, (3, 6, 5))
HEADS: dict[str, Any] = {"policy": 4, "value": "scalar"}


def build(space: spaces.Space[Any], **options: Any) -> Any:
    """A network in which no bias is 0 and no scale is 1."""
    network = Network(space, HEADS, NetworkConfig(**{"hidden_sizes": (8,), **options}))
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=source), alpha=0.1)
    return network


def stored(network: Any, space: spaces.Space[Any], count: int = 3) -> tuple[np.ndarray, Tensor]:
    """Some observations, and as an agent stores them."""
    space.seed(0)
    obs = np.stack([space.sample() for _ in range(count)])
    return obs, torch.from_numpy(network.observations.flatten(obs))


class ByHand:
    """The trunk's features from the weights in the order they were made, for one member of it."""

    def __init__(self, network: Any, member: int | None) -> None:
        self.activation = ACTIVATIONS[network.config.activation]
        self.norm = network.config.norm == "layer"
        self.member = member
        own = [*network.conv.parameters(), *network.trunk.parameters()]
        self.weights = iter([p if member is None else p[member] for p in own])

    def take(self) -> Tensor:
        return next(self.weights)

    def normed(self, h: Tensor) -> Tensor:
        if self.norm:
            axes = tuple(range(1, h.ndim))
            scale, shift = (p.reshape(-1, *(1,) * (h.ndim - 2)) for p in (self.take(), self.take()))
            h = h - h.mean(axes, keepdim=True)
            h = h / (h.square().mean(axes, keepdim=True) + 1e-5).sqrt() * scale + shift
        return h

    def conv(self, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.take(), self.take(), stride=stride, padding=padding)

    def plain(self, x: Tensor, strides: tuple[int, ...]) -> Tensor:
        for stride in strides:
            x = self.activation(self.normed(self.conv(x, stride)))
        return x.flatten(1)

    def impala(self, x: Tensor) -> Tensor:
        a = self.activation
        for _ in range(3):
            x = F.max_pool2d(self.conv(x, padding=1), 3, 2, 1)
            for _ in range(2):
                x = x + self.conv(a(self.conv(a(x), padding=1)), padding=1)
        return a(x).flatten(1)

    def dense(self, x: Tensor) -> Tensor:
        weight, bias = self.take(), self.take()
        if self.member is None:
            weight = weight.T  # a stack's lies the other way round
        return self.activation(self.normed(x @ weight + bias.reshape(-1)))


CASES = [
    ("nature", FRAMES, {"activation": "relu"}),
    ("nature", CAMERA, {"norm": "layer"}),
    ("impala", FRAMES, {"activation": "relu"}),
    ("impala", GRID, {"activation": "elu"}),
    ("minatar", GRID, {"activation": "relu"}),
    ("minatar", GRID, {"norm": "layer"}),
    ("minatar", FLOATS, {}),
]


@pytest.mark.parametrize(("kind", "space", "options"), CASES)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_the_output_is_that_of_the_published_layers(kind, space, options, shared):
    network = build(space, conv=kind, shared_trunk=shared, **options)
    obs, flat = stored(network, space)
    x = torch.from_numpy(obs).float()
    if space.dtype == np.uint8:
        x = x / 255
    if space is not FRAMES and space is not FLOATS:
        x = x.permute(0, 3, 1, 2)
    strides = {"nature": (4, 2, 1), "minatar": (1,)}.get(kind)
    out = network(flat)
    for i, (name, head) in enumerate(network.heads.items()):
        hand = ByHand(network, None if shared else i)
        features = hand.dense(hand.impala(x) if strides is None else hand.plain(x, strides))
        expected = F.linear(features, head.weight, head.bias).reshape(out[name].shape)
        torch.testing.assert_close(out[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "channels", "sides"),
    [("nature", 64, (1, 1)), ("impala", 32, (5, 5)), ("minatar", 16, (35, 38))],
)
def test_the_kernels_and_what_they_leave_are_the_published_ones(kind, channels, sides):
    network = build(FRAMES, conv=kind)
    kernels = [tuple(p.shape) for p in network.conv.parameters() if p.ndim == 4]
    assert (
        kernels
        == {
            "nature": [(32, 2, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)],
            "minatar": [(16, 2, 3, 3)],
            "impala": [
                *[(16, 2, 3, 3)] + [(16, 16, 3, 3)] * 4,
                *[(32, 16, 3, 3)] + [(32, 32, 3, 3)] * 4,
                *[(32, 32, 3, 3)] * 5,
            ],
        }[kind]
    )
    assert network.conv.out_features == channels * sides[0] * sides[1]


def test_atari_and_minatar_leave_what_the_papers_say():
    atari = Network(spaces.Box(0, 255, (4, 84, 84), np.uint8), {"q": 6})
    minatar = Network(spaces.Box(0.0, 1.0, (10, 10, 4), dtype=BOOL), {"q": 3})
    assert atari.conv is not None
    assert minatar.conv is not None
    assert (atari.conv.out_features, minatar.conv.out_features) == (3136, 1024)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize(("kind", "space"), [("nature", CAMERA), ("impala", GRID)])
def test_any_leading_axes_give_the_same(kind, space, shared):
    network = build(space, conv=kind, shared_trunk=shared)
    _, flat = stored(network, space, 6)
    whole = network(flat)
    for lead in [(), (2, 3), (1,), (0,)]:
        count = int(np.prod(lead))
        out = network(flat[:count].reshape(*lead, flat.shape[-1]))
        for name, value in out.items():
            expected = whole[name][:count].reshape((*lead, *whole[name].shape[1:]))
            torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("space", "kernel"),
    [
        (FRAMES, (32, 2, 8, 8)),
        (CAMERA, (32, 3, 8, 8)),
        (spaces.Box(0, 1, (4, 84, 84)), (32, 4, 8, 8)),  # scaled before it came
        (spaces.Box(0, 255, (35, 84, 3), np.uint8), (16, 3, 3, 3)),
        (GRID, (16, 4, 3, 3)),
        (spaces.Box(0.0, 1.0, (10, 10, 10), dtype=BOOL), (16, 10, 3, 3)),
        (FLOATS, (16, 3, 3, 3)),
        (spaces.Box(-1, 1, (2, 2, 9)), None),
        (spaces.Box(0, 255, (128,), np.uint8), None),
        (spaces.Box(0, 255, (84, 84), np.uint8), None),
        (spaces.Discrete(3), None),
    ],
    ids=str,
)
def test_the_space_chooses_unless_told_otherwise(space, kernel):
    conv = Network(space, HEADS).conv
    assert (conv and tuple(next(conv.parameters()).shape)) == kernel
    assert Network(space, HEADS, NetworkConfig(conv="none")).conv is None


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (spaces.Dict(image=CAMERA), {}, r"conv is 'auto', and an image in a Dict.* use none to"),
        (GRID, {"conv": "nature"}, r"conv is 'nature'.*at least 36×36: use auto or none for Box"),
        (spaces.Box(-1, 1, (4,)), {"conv": "impala"}, r"conv is 'impala'.*observations are none"),
        (spaces.Discrete(4), {"conv": "minatar"}, r"are none: use auto or none for Discrete\(4\)"),
        (spaces.Box(-1, 1, (2, 2, 9)), {"conv": "minatar"}, r"at least 3×3"),
        (spaces.Discrete(4), {"conv": "minatar"}, r"none for Discrete\(4\)"),
        (FRAMES, {"conv": "resnet"}, "conv is 'resnet': use auto, none, nature, impala, minatar"),
        (FRAMES, {"conv": "impala", "norm": "layer"}, "norm is 'layer', which network.conv='impa"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(space, options, message):
    with pytest.raises(ValueError, match=message) as error:
        build(space, **options)
    assert "\n" not in str(error.value)


# Bytes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "scale"),
    [
        (FRAMES, 255),
        (GRID, 1),
        (spaces.Box(0, 10, (7, 7, 3), np.uint8), 10),
        (spaces.Box(0, 255, (128,), np.uint8), 255),
        (spaces.Tuple([FRAMES, CAMERA]), 255),
    ],
    ids=str,
)
def test_an_observation_of_bytes_is_stored_as_bytes_and_read_as_numbers_up_to_1(space, scale):
    observations = Network(space, HEADS, NetworkConfig(conv="none")).observations
    space.seed(0)
    obs = space.sample()
    flat = observations.flatten(obs)
    assert flat.dtype == np.uint8
    parts = obs if isinstance(obs, tuple) else (obs,)
    expected = np.concatenate([np.ravel(part) for part in parts]) / np.float32(scale)
    read = observations.expand(torch.from_numpy(flat))
    np.testing.assert_allclose(read, expected, rtol=1e-6)
    # A normaliser's output comes as float, and is not scaled again.
    assert torch.equal(observations.expand(read), read)


def test_bytes_of_different_scales_are_kept_as_float():
    pair = spaces.Tuple([FRAMES, GRID])
    observations = Network(pair, HEADS, NetworkConfig(conv="none")).observations
    assert observations.dtype == np.float32
    assert observations.scale == 1.0


# What the learner sees --------------------------------------------------------------------------


def learner_of(network: Any) -> Learner:
    return Learner({"network": network}, OptimConfig(optimizer="sgd", lr=0.1, stats_every=1), "l")


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("nature", ["0", "1", "2"]),
        ("minatar", ["0"]),
        (
            "impala",
            [
                f"{stage}.{part}"
                for stage in range(3)
                for part in (
                    "conv",
                    *(f"block.{i}.{w}" for i in (0, 1) for w in ("inner", "outer")),
                )
            ],
        ),
    ],
)
def test_every_layer_has_its_name_from_the_first_to_the_last(kind, own):
    shared = [f"trunk.conv.{name}" for name in own]
    layers = learner_of(build(FRAMES, conv=kind)).statistics.layers
    assert layers == (*shared, "trunk.0", "policy.head", "value.head")
    learner = learner_of(build(FRAMES, conv=kind, shared_trunk=False))
    members = [f"{head}.{name}" for name in [*shared, "trunk.0"] for head in HEADS]
    assert learner.statistics.layers == (*members, "policy.head", "value.head")
    segments = learner.flat.segments
    assert sum(stop - start for _, start, stop in segments) == learner.flat.vector.numel()


@pytest.mark.parametrize("kind", ["nature", "minatar"])
def test_the_segments_of_a_stack_are_its_members(kind):
    network = build(FRAMES, conv=kind, shared_trunk=False)
    learner = learner_of(network)
    _, flat = stored(network, FRAMES)
    learner.gradient(lambda obs: ({"v": network(obs)["value"].square().mean()}, {}), flat)
    for layer, start, stop in learner.flat.segments:
        assert learner.flat.gradient[start:stop].any() == layer.startswith("value"), layer


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
def test_a_channel_that_never_fires_is_a_dormant_unit(shared):
    network = build(FRAMES, conv="nature", activation="relu", shared_trunk=shared)
    first = network.conv.layers[0]
    with torch.no_grad():
        first.bias[..., :] = 10.0
        bias = first.bias if shared else first.bias[1]
        bias[:8] = -100.0  # a quarter of the channels, of the second member
    learner = learner_of(network)
    _, flat = stored(network, FRAMES)
    step = learner.minimize(lambda obs: ({"v": network(obs)["value"].square().mean()}, {}), flat)
    assert step.record is not None
    statistics = learner.statistics.summary([step.record])
    dormant = dict(zip(statistics.layers, statistics.columns["dormant"], strict=True))
    assert dormant["trunk.conv.0" if shared else "value.trunk.conv.0"] == 0.25
    if not shared:
        assert dormant["policy.trunk.conv.0"] == 0.0


@pytest.mark.parametrize(
    ("kind", "space", "options", "shared"),
    [
        ("nature", CAMERA, {"norm": "layer"}, False),
        ("impala", GRID, {"activation": "relu"}, False),
        ("minatar", GRID, {"norm": "layer"}, True),
    ],
)
def test_a_loss_is_stacked_over_weight_vectors_and_compiled_to_one_graph(
    kind, space, options, shared
):
    network = build(space, conv=kind, shared_trunk=shared, **options)
    learner = learner_of(network)
    _, flat = stored(network, space)

    def loss(obs: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        out = network(obs)
        return {"l": out["policy"].square().mean() + (out["value"] - 1).square().mean()}, {}

    functional = learner.functional(loss)

    def total(vector: Tensor) -> Tensor:
        return functional(vector, flat)[0]["l"]

    own = learner.flat.vector.clone()
    stack = torch.stack([own, 1.02 * own])
    stacked = torch.vmap(torch.func.grad(total))(stack)
    torch._dynamo.reset()
    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
    for vector, gradient in zip(stack, stacked, strict=True):
        learner.flat.vector.copy_(vector)
        learner.gradient(loss, flat)
        expected = learner.flat.gradient / learner.flat.gradient.abs().max()
        leaf = vector.clone().requires_grad_()
        compiled(leaf).backward()
        assert leaf.grad is not None
        for other in (gradient, leaf.grad):
            scaled = other / learner.flat.gradient.abs().max()
            torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)


# How kernels begin ------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (3,)])
def test_orthogonal_is_over_the_flattened_kernel(lead):
    weight = torch.empty(*lead, 6, 2, 3, 3)
    initialize(weight, "orthogonal", 2.0, torch.Generator().manual_seed(0))
    for kernel in weight.reshape(-1, 6, 18):
        torch.testing.assert_close(kernel @ kernel.T, 4 * torch.eye(6), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("init", "variance"), [("xavier", 2 * 2.0 / (9 * (32 + 64))), ("he", 2.0 / (9 * 32))]
)
def test_the_variance_of_a_kernel_is_that_of_xavier_and_of_he(init, variance):
    weight = torch.empty(2, 64, 32, 3, 3)
    initialize(weight, init, 2**0.5, torch.Generator().manual_seed(0))
    for kernel in weight:
        assert kernel.var().item() == pytest.approx(variance, rel=0.05)


# In an agent ------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [FRAMES, GRID], ids=["frames", "grid"])
def test_a_saved_agent_with_images_acts_the_same(space, tmp_path):
    config = DQNConfig(network=NetworkConfig((16,), activation="relu"))
    agent = DQN(space, spaces.Discrete(5), config, seed=3)
    agent.save(tmp_path / "agent.safetensors")
    loaded = DQN.from_file(tmp_path / "agent.safetensors")
    assert loaded.network.conv is not None
    obs, flat = stored(agent.network, space, 50)
    assert torch.equal(agent.network(flat)["q"], loaded.network(flat)["q"])
    actions = agent.act(obs)
    assert len(set(actions.tolist())) > 1
    assert np.array_equal(loaded.act(obs), actions)


def test_convolutions_have_no_effect_on_a_trunk_of_ones_own():
    trunk: Any = torch.nn.Linear(360, 8)
    config = DQNConfig(network=NetworkConfig((256, 256), activation="relu", conv="minatar"))
    with pytest.raises(ValueError, match=r"network\.conv is minatar, which has no effect"):
        DQN(GRID, spaces.Discrete(5), config, trunk=trunk)
