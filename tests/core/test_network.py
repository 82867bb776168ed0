"""Each option of a network changes what it should, and nothing that it should not."""

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from agents.core.blocks import ACTIVATIONS
from agents.core.initialization import initialize
from agents.core.learner import Learner
from agents.core.network import Head, Network, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.core.spaces import Observations

BOX = spaces.Box(-1, 1, (5,))
OBS = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
HEADS: dict[str, Any] = {"policy": 4, "value": "scalar"}


def build(heads: Any = HEADS, trunk: nn.Module | None = None, **options: Any) -> Any:
    return Network(BOX, heads, NetworkConfig(**{"hidden_sizes": (8, 8), **options}), trunk=trunk)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Ensembles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("lead", [(), (7,), (2, 3)])
@pytest.mark.parametrize("size", [4, None])
def test_the_members_of_an_ensemble_are_what_each_is_alone(shared, lead, size):
    """Compared with products of single weights, one member after the other."""
    network = build({"q": Head(size, members=3), "value": "scalar"}, shared_trunk=shared)
    obs = torch.randn(*lead, 5, generator=generator(1))
    out = network(obs)
    assert out["q"].shape == (3, *lead, *([size] if size else []))
    for k in range(3):
        h = obs
        for layer in network.trunk:
            weight, bias = layer.weight, layer.bias
            if not shared:  # a stack of four, (in, out) each
                weight, bias = weight[k].T, bias[k, 0]
            h = torch.tanh(F.linear(h, weight, bias))
        head = network.heads["q"]
        alone = F.linear(h, head.weight[k].T, head.bias[k, 0])
        torch.testing.assert_close(out["q"][k], alone if size else alone.squeeze(-1))
    assert out["value"].shape == lead
    torch.testing.assert_close(network(obs, only="q")["q"], out["q"])


def test_an_ensemble_of_one_is_the_same_with_a_trunk_of_its_own():
    own, shared = (build({"q": Head(4, members=1)}, shared_trunk=x) for x in (False, True))
    obs = torch.randn(2, 3, 5, generator=generator(1))
    assert own(obs)["q"].shape == (1, 2, 3, 4)
    assert own(obs)["q"].equal(shared(obs)["q"])


def test_the_members_of_an_ensemble_begin_apart_and_have_their_names():
    network = build({"q": Head(4, members=3)}, shared_trunk=False)
    head, trunk = network.heads["q"], network.trunk
    assert head.layer_names == ("0.q.head", "1.q.head", "2.q.head")
    assert trunk[1].layer_names == ("0.q.trunk.1", "1.q.trunk.1", "2.q.trunk.1")
    for stack in (head.weight, trunk[0].weight, trunk[1].weight):
        assert not any(stack[i].equal(stack[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert network.trunks == 3


def test_dropout_is_drawn_for_every_member():
    network = build({"q": Head(4, members=3)}, shared_trunk=False, dropout=0.5)
    noise = network.sample_noise((7,), generator())
    assert [u.shape for u in noise] == [(7, 3, 8)] * 2
    assert not network(OBS, noise)["q"].equal(network(OBS)["q"])


@pytest.mark.parametrize(
    "options",
    [{"members": 0}]
    + [
        {"members": 3, **o}
        for o in ({"log_std": 0.0}, {"atoms": 5}, {"cosines": 8}, {"dueling": True})
    ],
)
def test_an_ensemble_of_none_or_of_other_heads_than_plain_ones_is_refused(options):
    with pytest.raises(ValueError, match="ensemble"):
        Head(4, **options)


def test_a_noisy_ensemble_is_refused():
    with pytest.raises(ValueError, match="noisy has no place in an ensemble"):
        build({"q": Head(4, members=3)}, noisy=True)


def test_an_ensemble_of_one_is_its_member_with_an_axis_before():
    alone, one = build({"q": Head(4)}), build({"q": Head(4, members=1)})
    assert one(OBS)["q"].shape == (1, 7, 4)
    torch.testing.assert_close(one(OBS)["q"][0], alone(OBS)["q"], rtol=0, atol=0)


# Critics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shared", "members"), [(True, 1), (True, 3), (False, 3)])
@pytest.mark.parametrize("lead", [(), (7,), (2, 3)])
@pytest.mark.parametrize("size", [None, 4])
def test_a_critic_reads_an_action_as_if_it_were_observed(shared, members, lead, size):
    config = NetworkConfig((8, 8), shared_trunk=shared)
    heads = {"q": Head(size, members=members)}
    whole = Network(spaces.Box(-1, 1, (7,)), heads, config, generator())
    critic = Network(BOX, heads, config, generator(), action_size=2)
    obs, action = torch.randn(*lead, 5), torch.randn(*lead, 2)
    q = critic(obs, action=action)["q"]
    assert q.shape == (members, *lead, *([] if size is None else [size]))
    torch.testing.assert_close(q, whole(torch.cat([obs, action], -1))["q"], rtol=0, atol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_a_critic_reads_an_action_behind_its_convolutions(shared):
    image = spaces.Box(0, 255, (3, 6, 6), np.uint8)
    config = NetworkConfig((8,), shared_trunk=shared)
    critic = Network(image, {"q": Head(None, members=2)}, config, generator(), action_size=2)
    obs = torch.randint(256, (4, 108), dtype=torch.uint8)
    one, other = (critic(obs, action=torch.full((4, 2), a))["q"] for a in (0.0, 0.5))
    assert one.shape == (2, 4)
    assert (one != other).all()


# Heads and spaces -------------------------------------------------------------------------------

SPACES: list[spaces.Space[Any]] = [
    spaces.Box(-1, 1, (3,)),
    spaces.Box(-1, 1, ()),
    spaces.Box(0, 255, (2, 3, 1), np.uint8),
    spaces.Discrete(6, start=2),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary((2, 2)),
    spaces.Dict(at=spaces.Discrete(3), speed=spaces.Box(-1, 1, (2,))),
    spaces.Tuple([spaces.Box(-1, 1, (2, 2)), spaces.MultiBinary(3)]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_every_space_gives_heads_of_their_shapes_alone_and_in_a_batch(space, shared, lead):
    space.seed(0)
    network = Network(space, HEADS, NetworkConfig((8,), shared_trunk=shared))
    flat = [network.observations.flatten(space.sample()) for _ in range(int(np.prod(lead)))]
    obs = torch.from_numpy(np.stack(flat)).reshape(*lead, -1)
    out = network(obs)
    assert list(out) == list(HEADS)
    assert out["policy"].shape == (*lead, 4)
    assert out["value"].shape == lead
    one = network(obs.reshape(-1, obs.shape[-1])[-1])
    for name, value in out.items():
        last = value.reshape(len(flat), *one[name].shape)[-1]
        torch.testing.assert_close(last, one[name])
        torch.testing.assert_close(network(obs, only=name), {name: value})


@pytest.mark.parametrize(
    "space",
    [spaces.Text(5), spaces.Dict(inner=spaces.Dict(a=spaces.Discrete(2)))],
    ids=["text", "nested"],
)
def test_any_other_space_is_refused(space):
    with pytest.raises(ValueError, match="is not supported: use Box"):
        Network(space, HEADS)


def test_a_head_with_a_log_std_gives_it_beside_the_mean_whatever_the_observation():
    network = build({"policy": Head(3, log_std=-0.5)})
    out = network(OBS)["policy"]
    assert out.shape == (7, 6)
    assert torch.equal(out[:, 3:], torch.full((7, 3), -0.5))
    log_std = network.heads["policy"].log_std
    assert isinstance(log_std, nn.Parameter)
    out.sum().backward()
    assert torch.equal(log_std.grad, torch.full((3,), 7.0))  # type: ignore[arg-type]


# What an option does ----------------------------------------------------------------------------


def by_hand(network: Any, obs: Tensor, member: int | None = None) -> Tensor:
    """The features of the trunk, or of one member of it, from its weights and the options."""
    config, x = network.config, obs
    for depth, layer in enumerate(network.trunk):
        weight, bias, scale, shift = (
            p if p is None or member is None else p[member]
            for p in (layer.weight, layer.bias, layer.norm_scale, layer.norm_bias)
        )
        h = x @ (weight.T if member is None else weight) + bias
        if config.norm == "layer":
            h = (h - h.mean(-1, keepdim=True)) / (h.var(-1, False, keepdim=True) + 1e-5).sqrt()
            h = h * scale + shift
        h = ACTIVATIONS[config.activation](h)
        x = x + h if config.residual and depth else h
    return x


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_output_is_what_the_options_say(activation, norm, residual, shared):
    network = build(activation=activation, norm=norm, residual=residual, shared_trunk=shared)
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):  # no bias of 0, no scale of 1
            p += 0.3 * torch.randn(p.shape, generator=generator(i))
    out = network(OBS)
    for i, (name, head) in enumerate(network.heads.items()):
        features = by_hand(network, OBS, None if shared else i)
        expected = F.linear(features, head.weight, head.bias)
        torch.testing.assert_close(out[name], expected.reshape(out[name].shape))


@pytest.mark.parametrize("shared", [False, True])
def test_one_head_learns_the_trunk_of_the_other_only_where_they_share_it(shared):
    network = build(shared_trunk=shared)
    network(OBS)["policy"].square().sum().backward()
    value = network.heads["value"].weight.grad
    assert value is None or not value.any()
    for layer in network.trunk:
        assert layer.weight.grad[0].any()
        if not shared:
            assert not layer.weight.grad[1].any()
    sizes = sum(p.numel() for p in network.trunk.parameters())
    assert sizes == (8 * 5 + 8 + 8 * 8 + 8) * (1 if shared else 2)


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_comes_before_normalisation(shared):
    """Where all is dropped, a layer gives out what it adds after normalising."""
    network = build(dropout=0.25, activation="relu", norm="layer", shared_trunk=shared)
    torch.nn.init.constant_(network.trunk[0].norm_bias, 3.0)
    hidden: list[Tensor] = []
    network.trunk[0].register_forward_hook(lambda module, inputs, output: hidden.append(output))
    noise = network.sample_noise((len(OBS),), generator())
    assert noise is not None
    network(OBS, [torch.zeros_like(u) for u in noise])
    assert (hidden[0] == 3.0).all()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("lead", [(500,), (20, 25)])
def test_dropout_drops_its_share_and_keeps_the_mean_and_only_with_noise(shared, lead):
    network = build(dropout=0.25, activation="sigmoid", shared_trunk=shared, hidden_sizes=(8,))
    plain = build(activation="sigmoid", shared_trunk=shared, hidden_sizes=(8,))
    obs = OBS[0].expand(*lead, 5)
    assert plain.sample_noise(lead, generator()) is None
    torch.testing.assert_close(network(obs), plain(obs), rtol=0.0, atol=0.0)
    noise = network.sample_noise(lead, generator())
    assert noise is not None
    torch.testing.assert_close(network(obs, noise), network(obs, noise), rtol=0.0, atol=0.0)
    hidden: list[Tensor] = []
    network.trunk[0].register_forward_hook(
        lambda module, inputs, output: hidden.append(output.detach().reshape(-1, 500, 8))
    )
    network(obs, noise)
    network(obs)
    dropped, whole = hidden
    share = (dropped == 0).float().mean()
    assert share.item() == pytest.approx(0.25, abs=4 * (0.1875 / dropped.numel()) ** 0.5)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole.expand_as(dropped)[kept] / 0.75)


def test_dropout_differs_between_separate_trunks():
    network = build(dropout=0.5, shared_trunk=False, hidden_sizes=(8,))
    noise = network.sample_noise((7,), generator())
    assert noise is not None
    assert noise[0].shape == (7, 2, 8)
    assert not torch.equal(noise[0][:, 0], noise[0][:, 1])


# How weights begin ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (3, 6, 9)])
@pytest.mark.parametrize("gain", [1.0, 2**0.5, 0.01])
def test_orthogonal_rows_or_columns_are_orthonormal_up_to_the_gain(shape, gain):
    weight = torch.empty(shape)
    initialize(weight, "orthogonal", gain, generator())
    for w in weight.reshape(-1, *shape[-2:]):
        product = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
        torch.testing.assert_close(product, gain**2 * torch.eye(6), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("init", "variance"), [("xavier", 2 * 2.0 / (150 + 300)), ("he", 2.0 / 300)]
)
def test_the_variance_is_that_of_xavier_and_of_he(init, variance):
    weight = torch.empty(2, 150, 300)
    initialize(weight, init, 2**0.5, generator())
    for w in weight:
        assert w.var().item() == pytest.approx(variance, rel=0.03)
        assert w.mean().item() == pytest.approx(0.0, abs=4 * (variance / w.numel()) ** 0.5)
    largest = weight.abs().max().item() / variance**0.5
    assert largest == pytest.approx(3**0.5, rel=1e-3) if init == "xavier" else largest > 3.5


@pytest.mark.parametrize(("inputs", "kept"), [(300, 30), (32, 3), (15, 1), (4, 1), (1, 1)])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_a_sparse_unit_reads_a_tenth_of_its_inputs_and_one_at_least(inputs, kept, gain):
    weight = torch.empty(2, 400, inputs)
    initialize(weight, "sparse", gain, generator())
    assert ((weight != 0).sum(-1) == kept).all()
    assert not torch.equal(weight[0] != 0, weight[1] != 0) or inputs == 1
    read = (weight != 0).float().mean((0, 1))  # no input is left out more often than others
    assert read.numpy() == pytest.approx(kept / inputs, abs=5 * (kept / inputs / 800) ** 0.5)
    values = weight[weight != 0] * inputs**0.5 / gain
    assert values.abs().max() <= 1.0
    assert values.var().item() == pytest.approx(1 / 3, rel=0.15)  # uniform between -1 and 1


@pytest.mark.parametrize("init", ["orthogonal", "xavier", "he", "sparse"])
@pytest.mark.parametrize("shared", [False, True])
def test_weights_come_from_the_generator_and_heads_have_their_gain(init, shared):
    heads = {"a": Head(4, gain=0.01), "b": Head(4, gain=1.0)}
    config = NetworkConfig((8,), init=init, shared_trunk=shared)

    def build_from(source: torch.Generator) -> Any:
        return Network(BOX, heads, config, source)

    state = torch.get_rng_state()
    one, again, other = (build_from(generator(s)) for s in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    pairs = list(zip(one.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q, _ in pairs)
    assert not any(torch.equal(p, r) for p, _, r in pairs if p.any())
    ratio = one.heads["b"].weight.norm() / one.heads["a"].weight.norm()
    assert ratio.item() == pytest.approx(100.0, rel=1e-4 if init == "orthogonal" else 0.5)
    if not shared:
        assert not torch.equal(*one.trunk[0].weight)


def test_an_unknown_init_is_an_error():
    with pytest.raises(ValueError, match="unknown init 'zeros'"):
        initialize(torch.empty(2, 2), "zeros", 1.0, generator())  # type: ignore[arg-type]


# A trunk of the user's own ----------------------------------------------------------------------


def own(features: Any = 6) -> nn.Module:
    trunk = nn.Sequential(OrderedDict(inner=nn.Linear(5, 6), act=nn.Tanh()))
    if features is not None:
        trunk.out_features = features
    return trunk


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(8)])
def test_a_trunk_of_ones_own_may_not_change_or_draw_while_acting(layer):
    trunk: Any = nn.Sequential(nn.Linear(3, 8), layer)
    trunk.out_features = 8
    with pytest.raises(ValueError, match=f"cannot hold 1 {type(layer).__name__}"):
        build(trunk=trunk)


@pytest.mark.parametrize(
    ("trunk", "error", "said"),
    [
        ("x", TypeError, "is 'x': give an nn.Module that reads observations of size 5$"),
        (nn.Linear(4, 8), ValueError, r"read observations of size 5, \(\.\.\., 5\): mat1 and mat2"),
    ],
)
def test_a_trunk_of_ones_own_reads_the_observations(trunk, error, said):
    with pytest.raises(error, match=f"^a trunk of your own .*{said}"):
        build(trunk=trunk)


def test_a_trunk_of_ones_own_stands_in_for_the_built_one():
    trunk = own()
    network = build(trunk=trunk)
    out = network(OBS)
    for name, head in network.heads.items():
        expected = F.linear(trunk(OBS), head.weight, head.bias)
        torch.testing.assert_close(out[name], expected.reshape(out[name].shape))
    assert "trunk.inner.weight" in network.state_dict()


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_without_hidden_layers_heads_are_linear_in_the_features(lead):
    space = spaces.Dict(at=spaces.Discrete(3), speed=spaces.Box(-1, 1, (2,)))
    network: Any = Network(space, HEADS, NetworkConfig(()))
    obs = torch.cat([torch.randint(3, (*lead, 1)), torch.randn(*lead, 2)], -1)
    features = torch.cat([torch.eye(3)[obs[..., 0].long()], obs[..., 1:]], -1)
    out = network(obs)
    for name, head in network.heads.items():
        expected = features @ head.weight.T + head.bias
        torch.testing.assert_close(out[name], expected.reshape(out[name].shape))
    assert [name for name, _ in network.named_parameters()] == [
        f"heads.{name}.{part}" for name in HEADS for part in ("weight", "bias")
    ]
    assert network.sample_noise((2,), generator()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk": own(), "shared_trunk": False}, "a trunk of your own is shared"),
        ({"trunk": own(), "dropout": 0.1}, "dropout has no effect on a trunk of your own"),
        ({"trunk": own(None)}, "needs an integer attribute `out_features`"),
        ({"trunk": own("6")}, "needs an integer attribute `out_features`"),
        ({"heads": {"q": 3}, "shared_trunk": False}, "needs two or more heads.*only 'q'"),
        (
            {"hidden_sizes": (), "norm": "layer"},
            "norm is layer, .* without hidden layers",
        ),
        ({"hidden_sizes": (), "dropout": 0.1}, r"dropout is 0\.1, .* use 0\.0"),
        ({"hidden_sizes": (), "shared_trunk": False}, "shared_trunk is False, .* use True"),
        ({"hidden_sizes": (), "residual": True}, "residual needs two or more"),
        ({"hidden_sizes": (8, 0)}, "hidden_sizes is .*at least 1"),
        ({"activation": "swish"}, "activation is 'swish': use tanh"),
        ({"norm": "batch"}, "norm is 'batch': use none, layer"),
        ({"init": "zeros"}, "init is 'zeros': use orthogonal"),
        ({"dropout": 1.0}, r"dropout is 1\.0: use a probability"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"residual": True, "hidden_sizes": (8, 4)}, "residual needs two or more"),
        ({"residual": True, "hidden_sizes": (8,)}, "residual needs two or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


# Heads of action values -------------------------------------------------------------------------


def value_head(head: Head, lead: tuple[int, ...] = (7,), **options: Any) -> tuple[Any, Tensor]:
    """A network with this head, no bias of which is 0, and observations for it."""
    network = build({"q": head}, **options)
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p += 0.3 * torch.randn(p.shape, generator=generator(i))
    return network, torch.randn((*lead, 5), generator=generator(9))


def linear_outputs(network: Any, obs: Tensor) -> Tensor:
    """What the last layer gives for features worked out by hand."""
    head = network.heads["q"]
    return by_hand(network, obs) @ head.weight.T + head.bias


LEADS = pytest.mark.parametrize("lead", [(), (4,), (2, 3)])


@LEADS
@pytest.mark.parametrize("dueling", [False, True])
def test_a_head_of_atoms_gives_them_for_each_action(lead, dueling):
    network, obs = value_head(Head(3, atoms=4, dueling=dueling), lead)
    q, y = network(obs)["q"], linear_outputs(network, obs)
    assert q.shape == (*lead, 3, 4)
    if not dueling:
        for a in range(3):
            torch.testing.assert_close(q[..., a, :], y[..., 4 * a : 4 * a + 4])
        return
    value, advantage = y[..., :4], [y[..., 4 * a : 4 * a + 4] for a in (1, 2, 3)]
    mean = sum(advantage) / 3
    for a in range(3):
        torch.testing.assert_close(q[..., a, :], value + advantage[a] - mean)


@LEADS
def test_a_dueling_head_gives_a_value_and_advantages_with_a_mean_of_0(lead):
    network, obs = value_head(Head(3, dueling=True), lead)
    q, y = network(obs)["q"], linear_outputs(network, obs)
    assert q.shape == (*lead, 3)
    value, advantage = y[..., :1], y[..., 1:]
    torch.testing.assert_close(q.mean(-1, keepdim=True), value)  # so Q - V has a mean of 0
    torch.testing.assert_close(q - value, advantage - advantage.mean(-1, keepdim=True))


@LEADS
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("common", [False, True])
def test_a_head_of_implicit_quantiles_is_the_papers(lead, dueling, common):
    """Dabney et al. 2018, eq. 4: f(ψ(s) ∘ φ(τ)), φ(τ) = relu(Σ_i cos(π i τ) w_i + b)."""
    network, obs = value_head(Head(3, cosines=6, dueling=dueling), lead)
    tau = torch.rand((5,) if common else (*lead, 5), generator=generator(4))
    q = network(obs, tau=tau)["q"]
    assert q.shape == (*lead, 3, 5)
    head, psi = network.heads["q"], by_hand(network, obs)
    for k in range(5):
        cosines = [torch.cos(torch.pi * i * tau[..., k : k + 1]) for i in range(6)]
        phi = head.embedding.bias + sum(
            c * head.embedding.weight[:, i] for i, c in enumerate(cosines)
        )
        y = (psi * phi.clamp(min=0)) @ head.weight.T + head.bias
        if dueling:
            y = y[..., :1] + y[..., 1:] - y[..., 1:].mean(-1, keepdim=True)
        torch.testing.assert_close(q[..., k], y)


def test_an_implicit_quantile_depends_on_its_own_fraction_alone():
    network, obs = value_head(Head(3, cosines=6))
    tau = torch.rand((7, 5), generator=generator(4))
    order = torch.tensor([3, 0, 4, 1, 2])
    q = network(obs, tau=tau)["q"]
    torch.testing.assert_close(network(obs, tau=tau[:, order])["q"], q[..., order])
    torch.testing.assert_close(network(obs, tau=tau[:, :1])["q"], q[..., :1])


# Noisy layers -----------------------------------------------------------------------------------


def factor(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.sqrt(torch.abs(x))


def noisy_networks(**options: Any) -> tuple[Any, Any]:
    """A noisy network whose spreads are all different, and a plain one with its weights."""
    noisy, plain = build(noisy=True, **options), build(**options)
    with torch.no_grad():
        for layer in noisy.noisy:
            for i, p in enumerate((layer.spread, layer.bias_spread)):
                p.copy_(torch.rand(p.shape, generator=generator(i)))
    plain.load_state_dict(
        {name: w for name, w in noisy.state_dict().items() if "spread" not in name}
    )
    return noisy, plain


def test_without_noise_a_noisy_layer_is_a_plain_one():
    noisy, plain = noisy_networks()
    same_weights = build()
    for name, value in noisy(OBS).items():
        assert torch.equal(value, plain(OBS)[name])
    for name, weight in same_weights.state_dict().items():  # and begins like one
        assert torch.equal(weight, noisy.state_dict()[name])
    assert plain.sample_noise((7,), generator()) is None
    assert plain.sample_exploration(np.random.default_rng(0)) is None


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_with_noise_it_adds_the_spread_times_the_product_of_the_factors(norm):
    """Fortunato et al. 2018, eq. 9 and 10, with a plain network of the weights worked out."""
    noisy, plain = noisy_networks(norm=norm)
    noise = noisy.sample_noise((7,), generator(5))
    sizes = [(5, 8), (8, 8), (8, 4), (8, 1)]  # trunk, policy, value
    drawn = torch.randn(sum(i + o for i, o in sizes), generator=generator(5))
    layers = (*plain.trunk, *plain.heads.values())
    for layer, source, (inputs, outputs) in zip(layers, noisy.noisy, sizes, strict=True):
        epsilon_in, epsilon_out = drawn[:inputs], drawn[inputs : inputs + outputs]
        drawn = drawn[inputs + outputs :]
        with torch.no_grad():
            for i in range(outputs):
                for j in range(inputs):
                    product = factor(epsilon_out[i]) * factor(epsilon_in[j])
                    layer.weight[i, j] += source.spread[i, j] * product
                layer.bias[i] += source.bias_spread[i] * factor(epsilon_out[i])
    out, expected = noisy(OBS, noise), plain(OBS)
    for name, value in out.items():
        torch.testing.assert_close(value, expected[name])
        torch.testing.assert_close(noisy(OBS, noise, only=name), {name: value})


def test_noise_comes_from_its_generator_alone_and_differs_from_draw_to_draw():
    network: Any = build(noisy=True)
    state, source, rng = torch.get_rng_state(), generator(3), np.random.default_rng(3)
    for draw, again in (
        (lambda: network.sample_noise((7,), source), network.sample_noise((7,), generator(3))),
        (
            lambda: network.sample_exploration(rng),
            network.sample_exploration(np.random.default_rng(3)),
        ),
    ):
        first, second = draw(), draw()
        for one, two, same in zip(first, second, again, strict=True):
            assert torch.equal(one, same)
            assert not torch.equal(one, two)
        assert [len(x) for x in first] == [13, 16, 12, 9]
    assert torch.equal(state, torch.get_rng_state())


def test_acting_and_learning_draw_factors_of_the_same_size():
    """f(x) = sgn(x) √|x| of standard normal numbers, so that f |f| is standard normal again."""
    network: Any = build(noisy=True)
    source, rng = generator(3), np.random.default_rng(3)
    for draw in (
        lambda: network.sample_noise((7,), source),
        lambda: network.sample_exploration(rng),
    ):
        f = torch.cat([torch.cat(draw()) for _ in range(100)])
        assert stats.kstest((f * f.abs()).numpy(), "norm").pvalue > 0.01


def test_the_spread_begins_at_half_over_the_root_of_the_inputs():
    for layer in build(noisy=True).noisy:
        for spread in (layer.spread, layer.bias_spread):
            assert torch.equal(spread, torch.full_like(spread, 0.5 / layer.inputs**0.5))


def test_the_spread_is_trained_but_does_not_decay():
    network: Any = build(noisy=True)
    learner = Learner(
        {"network": network}, OptimConfig(optimizer="adamw", lr=0.1, weight_decay=0.5)
    )
    noise = network.sample_noise((7,), generator())
    before = {name: p.detach().clone() for name, p in network.named_parameters()}

    def nothing(obs):
        return {"nothing": 0.0 * sum(x.sum() for x in network(obs, noise).values())}, {}

    learner.minimize(nothing, OBS)  # a gradient of 0: what changes has decayed
    for name, p in network.named_parameters():
        decayed = not torch.equal(p, before[name]) and before[name].any()
        assert bool(decayed) == name.endswith(".weight"), name

    def loss(obs):
        return {"square": sum(x.square().mean() for x in network(obs, noise).values())}, {}

    learner.minimize(loss, OBS)
    for name, p in network.named_parameters():
        assert not torch.equal(p, before[name]), name


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"shared_trunk": False}])
def test_noisy_layers_with_dropout_or_separate_trunks_are_refused(options):
    with pytest.raises(
        ValueError, match=r"^network\.noisy goes with one trunk without dropout: [^\n]*$"
    ):
        build(noisy=True, **options)


def test_only_the_heads_are_noisy_on_a_trunk_of_ones_own():
    trunk = own()
    network: Any = build(trunk=trunk, noisy=True)
    noise = network.sample_noise((7,), generator())
    assert [len(x) for x in noise] == [6 + 4, 6 + 1]
    for name, one in zip(network.heads, noise, strict=True):
        expected = network.heads[name](trunk(OBS), one)
        torch.testing.assert_close(network(OBS, noise)[name], expected)


# Observations as vectors ------------------------------------------------------------------------


def features_by_hand(space: spaces.Space[Any], value: Any) -> list[float]:
    """Quantities as they are, categories one-hot, parts one after the other."""
    if isinstance(space, spaces.Dict):
        return [f for key in space.spaces for f in features_by_hand(space[key], value[key])]
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, value, strict=True)
        return [f for part, v in parts for f in features_by_hand(part, v)]
    if isinstance(space, spaces.Discrete):
        return [float(value == space.start + i) for i in range(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        columns = zip(space.nvec.flat, space.start.flat, np.ravel(value), strict=True)
        return [float(v == start + i) for n, start, v in columns for i in range(n)]
    return [float(v) for v in np.ravel(value)]


@pytest.mark.parametrize(
    "space",
    [
        *SPACES,
        spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]), start=np.array([[1, 0], [0, -1]])),
        spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.Discrete(2, start=1)]),
    ],
    ids=str,
)
def test_an_observation_is_stored_small_and_expanded_one_hot(space):
    observations = Observations(space)
    space.seed(1)
    for _ in range(10):
        obs = space.sample()
        stored = observations.flatten(obs)
        assert stored.shape == (observations.size,)
        assert stored.dtype == (np.uint8 if space.dtype == np.uint8 else np.float32)
        expected = features_by_hand(space, obs)
        assert len(expected) == observations.features
        expanded = observations.expand(torch.from_numpy(stored))
        scaled = np.array(expected, np.float32) * np.float32(observations.scale)
        np.testing.assert_array_equal(expanded, scaled)
    assert observations.scale == (1 / 255 if space.dtype == np.uint8 else 1)
    assert observations.numeric.sum() == sum(
        int(np.prod(part.shape or ()))
        for part in observations.parts
        if isinstance(part, spaces.Box | spaces.MultiBinary)
    )


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_batch_of_the_environments_is_flattened_row_by_row(space):
    observations = Observations(space)
    batch = batch_space(space, 3)
    batch.seed(2)
    stacked = batch.sample()
    rows = list(iterate(batch, stacked))
    np.testing.assert_array_equal(
        observations.flatten(stacked), [observations.flatten(row) for row in rows]
    )


def test_an_observation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(4,\) does not fit .*expected .* \(\.\.\., 5\)"):
        Observations(BOX).flatten(np.zeros(4))
