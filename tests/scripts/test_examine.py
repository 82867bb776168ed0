"""`scripts/examine.py` looks at a checkpoint and leaves it alone; it replays post-mortems."""

import json
import math
from itertools import product
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

import envs
from agents import PPO, Checkpoint, Evaluate, Guard, PPOConfig, Recorder, train
from agents.core.files import config_to_json
from agents.core.recurrent import History
from agents.runner import explain as explaining
from agents.runner.arguments import BadInput
from agents.runner.examine import collect, resumed
from agents.runner.registry import AGENTS
from agents.runner.train import Run
from envs.vector import VectorEnv
from scripts import doctor, examine, plot, report
from scripts import evaluate as evaluation
from tests.contract.support import bits, small
from tests.runner.fakes import Scripted


def trained(cls, folder, tasks, steps=200, callbacks=(), env="CartPole-v1", **settings):
    """A run's folder after some steps, and its agent."""
    agent = small(cls, tasks, optim={"schedule": "linear"}, **settings)
    folder.mkdir()
    config = {
        "agent": cls.name,
        "env": env,
        "seed": 0,
        "num_envs": tasks.num_envs,
        "steps": steps,
        "config": config_to_json(agent.config),
        "backend": tasks.backend,
    }
    (folder / "config.json").write_text(json.dumps(config))
    train(agent, tasks, steps, [*callbacks, Checkpoint(folder)])
    return agent


def test_updates_that_are_not_finite_are_not_waited_for(tmp_path, tasks):
    trained(AGENTS["dqn"], tmp_path / "run", tasks)
    run = resumed(tmp_path / "run")
    run.agent.learners["dqn"].flat.vector.fill_(math.nan)
    with pytest.raises(BadInput, match=r"32 updates of dqn in a row .*'td'.* --replay"):
        collect(run, 5, 16)


@pytest.mark.parametrize("backend", ["auto", "loop"])
def test_what_the_library_left_is_read_by_every_script(run, tmp_path, backend, capsys):
    """At eight copies auto is an array, which spends steps on being reset."""
    tasks = envs.make("CartPole-v1", num_envs=8, backend=backend)
    agent = PPO(tasks.observation_space, tasks.action_space, PPOConfig(rollout_size=64), seed=1)
    evaluate = Evaluate(envs.make("CartPole-v1", num_envs=2), every=200, episodes=2)
    train(agent, tasks, 600, [Recorder(tmp_path, 4), evaluate, Checkpoint(tmp_path)])
    assert 600 <= agent.steps < 608
    assert run(tmp_path, "--gradients", 1, "--probe", 16)[0] == 0
    folder, page, picture = str(tmp_path), str(tmp_path / "x.html"), str(tmp_path / "x.png")
    assert doctor.main([folder]) == 0
    assert report.main([folder, "--out", page]) == 0
    assert plot.main([folder, "--out", picture]) == 0
    assert plot.main([folder, "--out", picture, "--kind", "gradients"]) == 0
    assert evaluation.main([folder, "--episodes", "1"]) == 0
    assert f"ppo on CartPole-v1, seed 1, {agent.steps} steps" in capsys.readouterr().out


@pytest.fixture
def tasks():
    return envs.make("CartPole-v1", num_envs=4)


@pytest.fixture
def run(capsys):
    """run("some", "arguments") -> exit code, stdout, stderr."""

    def run(*arguments):
        code = examine.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "name", ["a2c", "ppo", "dqn", "bootstrapped_dqn", "iqn", "sarsa", "stream_q"]
)
def test_a_checkpoint_is_examined_and_left_as_it_was(run, tmp_path, tasks, name):
    folder = tmp_path / "run"
    trained(AGENTS[name], folder, tasks)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = run(folder, "--gradients", 3, "--probe", 32)
    assert (code, err) == (0, "")
    assert "policy churn" in out
    report = json.loads((folder / "examination.json").read_text())
    assert {path: path.read_bytes() for path in files} == files
    (found,) = report["learners"].values()
    assert found["batches"] == 3
    for layer in found["features"].values():
        assert 1 <= layer["effective_rank"] <= layer["width"] == 16
        assert 1 <= layer["stable_rank"] <= 16
    assert found["terms"]["norms"]
    if name == "stream_q":
        assert "direction of their own" in found["curvature"]["why_not"]
    else:
        assert math.isfinite(found["curvature"]["eigenvalue"])
        lr = AGENTS[name].Config().optim.lr
        assert found["curvature"]["lr"] == lr  # not what its schedule left
    assert 0 < found["plasticity"]["network"]["fresh"] < 2
    assert 0 <= report["churn"]["changed"] <= 1
    again = tmp_path / "again.json"
    assert run(folder, "--gradients", 3, "--probe", 32, "--out", again)[0] == 0
    assert json.loads(again.read_text()) == report  # the same seed gives the same numbers


@pytest.mark.parametrize("name", ["sac", "td3", "crossq"])
def test_critics_that_judge_actions_are_examined_too(run, tmp_path, name):
    tasks = envs.make("Pendulum-v1", num_envs=4)
    trained(AGENTS[name], tmp_path / "run", tasks, env="Pendulum-v1")
    code, out, err = run(tmp_path / "run", "--gradients", 2, "--probe", 32)
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "run" / "examination.json").read_text())
    critic = report["learners"]["critic"]
    assert all(found["batches"] >= 2 for found in report["learners"].values())
    assert list(critic["features"]) == ["0.q.trunk.1", "1.q.trunk.1"]
    assert critic["features"]["0.q.trunk.1"] != critic["features"]["1.q.trunk.1"]
    assert 0 < critic["plasticity"]["critics"]["fresh"] < 2
    assert critic["batch_size"] == 8  # CrossQ's successors pass through with them
    assert report["churn"]["moved"] > 0
    assert "changed" not in report["churn"]  # which nearly every number is
    assert "%" not in out.split("policy churn")[1]


def test_the_terms_of_an_actor_critic_are_told_apart(run, tmp_path, tasks):
    trained(AGENTS["reinforce"], tmp_path / "run", tasks, steps=600)
    code, out, _ = run(tmp_path / "run", "--gradients", 2, "--probe", 16)
    assert code == 0
    assert "cosine policy~value" in out
    (found,) = json.loads((tmp_path / "run" / "examination.json").read_text())["learners"].values()
    assert found["terms"]["trunk"] == "shared"
    assert -1 <= found["terms"]["cosines"]["policy~value"] <= 1


@pytest.mark.parametrize("name", ["ppo", "recurrent_ppo", "pqn", "trpo", "sarsa", "stream_sarsa"])
def test_no_transition_is_in_two_of_the_gradients(tmp_path, tasks, name):
    trained(AGENTS[name], tmp_path / "run", tasks)
    made, _ = collect(resumed(tmp_path / "run"), 5, 16)
    for updates in made.values():
        assert len(updates) == 5
        sets = [{tuple(row.tolist()) for row in own(one)} for one, _ in updates]
        assert len(set().union(*sets)) == sum(map(len, sets))
        assert [size for _, size in updates] == [len(own(one)) for one, _ in updates]
        if name == "stream_sarsa":
            assert {size for _, size in updates} == {1}


def own(evaluated):
    """The observations that an update is about."""
    obs, action = evaluated.inputs[:2]
    if isinstance(obs, History):
        return obs.obs.flatten(0, 1)[obs.rows]
    return obs[: len(action)]


def test_randomness_goes_on_from_batch_to_batch_and_is_put_back_at_the_end(tmp_path):
    """Dropout's of both networks, and the noise of the actions that SAC's actor draws."""
    tasks = envs.make("Pendulum-v1", num_envs=4)
    settings = {"network": {"hidden_sizes": (16, 16), "dropout": 0.1}}
    trained(AGENTS["sac"], tmp_path / "run", tasks, env="Pendulum-v1", **settings)
    run = resumed(tmp_path / "run")
    before = bits(run.agent.state_dict())
    made, _ = collect(run, 4, 16)
    assert bits(run.agent.state_dict()) == before
    inputs = {name: [one.inputs for one, _ in updates] for name, updates in made.items()}
    for noises in (
        [noise for _, noise, *_ in inputs["actor"]],
        [dropout for *_, (dropout, _), _ in inputs["actor"]],
        [dropout for *_, (dropout, _) in inputs["critic"]],
    ):
        assert len({noise.numpy().tobytes() for noise in noises}) == len(noises) == 4


@pytest.mark.parametrize("name", ["trpo", "stream_sarsa"])
def test_curvature_is_left_out_where_no_gradient_is_followed(run, tmp_path, tasks, name):
    trained(AGENTS[name], tmp_path / "run", tasks)
    code, out, _ = run(tmp_path / "run", "--gradients", 1, "--probe", 16)
    assert code == 0
    found = json.loads((tmp_path / "run" / "examination.json").read_text())["learners"]
    for learner in ("policy", "stream_sarsa"):
        if learner in found:
            assert list(found[learner]["curvature"]) == ["why_not"]
            assert "direction of their own" in " ".join(out.split())
    assert name != "trpo" or found["value"]["curvature"]["eigenvalue"] > 0  # Adam's descent


def test_curvature_that_is_not_finite_is_said_to_be_unknown(run, tmp_path, tasks, monkeypatch):
    monkeypatch.setattr("agents.core.examination.top_eigenvalue", lambda *arguments: math.nan)
    trained(PPO, tmp_path / "run", tasks)
    assert run(tmp_path / "run", "--gradients", 1, "--probe", 16)[0] == 0
    found = json.loads((tmp_path / "run" / "examination.json").read_text())["learners"]["ppo"]
    assert list(found["curvature"]) == ["why_not"]


def test_terms_in_separate_trunks_have_no_cosine(run, tmp_path, tasks):
    trained(PPO, tmp_path / "run", tasks)
    code, out, _ = run(tmp_path / "run", "--gradients", 1, "--probe", 16)
    assert code == 0
    assert "separate trunk" in out
    assert "cosine" not in out


class Flicker(gymnasium.Env):
    """Random bytes that an action changes nothing of."""

    observation_space = spaces.Box(0, 255, (6, 6, 3), np.uint8)
    action_space = spaces.Dict({"which": spaces.Discrete(2), "how": spaces.Box(-1, 1, (2,))})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.image(), {}

    def step(self, action):
        return self.image(), 1.0, bool(self.np_random.random() < 0.2), False, {}

    def image(self):
        return self.np_random.integers(0, 256, (6, 6, 3), np.uint8)


gymnasium.register("tests/Flicker-v0", entry_point=f"{__name__}:Flicker", max_episode_steps=50)


def test_an_agent_that_reads_images_is_examined(run, tmp_path):
    tasks = envs.make("tests/Flicker-v0", num_envs=2)
    trained(PPO, tmp_path / "run", tasks, 64, env="tests/Flicker-v0")
    code, _, err = run(tmp_path / "run", "--gradients", 2, "--probe", 16)
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "run" / "examination.json").read_text())
    assert 0 < report["learners"]["ppo"]["plasticity"]["network"]["fresh"] < 2
    assert report["churn"]["moved"] > 0  # of the numbers; `changed` counts the choices alone
    assert report["churn"]["changed"] < 1


def test_a_run_of_another_backend_is_examined_with_it(run, tmp_path):
    """At four copies auto would be the loop, whose state is of another form."""
    folder = tmp_path / "run"
    trained(PPO, folder, envs.make("CartPole-v1", num_envs=4, backend="vector"))
    code, _, err = run(folder, "--gradients", 1, "--probe", 16)
    assert (code, err) == (0, "")


@pytest.fixture
def spoiled(tmp_path, tasks, monkeypatch):
    """The folder of a run of PPO in which one reward was nan."""
    observe, folder = PPO.observe, tmp_path / "run"

    def observe_badly(self, transition):
        if self.steps == 40:
            transition.reward[1] = np.nan
        observe(self, transition)

    monkeypatch.setattr(PPO, "observe", observe_badly)
    trained(PPO, folder, tasks, callbacks=[Guard(folder)])
    return folder


def test_a_postmortem_is_replayed(run, spoiled):
    code, out, err = run(spoiled, "--replay")
    assert (code, err) == (0, "")
    assert "loss term 'policy', layer 'policy.trunk.0'" in out
    assert "batch reward: 1 not finite, the first at [2, 1]" in out
    assert out.endswith("replayed: the same term, layer and numbers\n")
    (postmortem,) = (spoiled / "postmortems").iterdir()
    assert run(postmortem, "--replay")[1] == out


def test_a_replay_that_differs_says_so(run, spoiled):
    (path,) = (spoiled / "postmortems").glob("*/report.json")
    report = json.loads(path.read_text())
    path.write_text(json.dumps(report | {"nonfinite": "loss term 'entropy'"}))
    code, out, _ = run(spoiled, "--replay")
    assert code == examine.DIFFERS
    assert "differs: nonfinite was loss term 'entropy', now loss term 'policy'" in out


@pytest.mark.parametrize("method", ["gradient", "integrated", "lrp"])
@pytest.mark.parametrize("output", ["action", "value"])
def test_an_explanation_names_the_feature_that_counts(run, tmp_path, tasks, output, method):
    """Of an agent that looks at the pole's speed alone, and lives by it."""
    agent = trained(PPO, tmp_path / "run", tasks, steps=64)
    with torch.no_grad():
        first = agent.network.trunk[0]
        first.weight[:, [0, 1, 2]] = 0.0
        first.bias.zero_()
        first.weight[0, 3] = first.weight[0, 3].abs()
        agent.network.heads["policy"].weight[:] = torch.tensor([[-1.0], [1.0]])
        agent.network.trunk[1].weight[0] = first.weight[0, 3].sign()[:, None] * 0.1
    Checkpoint(tmp_path / "run").write(Run(agent, tasks, 10_000))
    arguments = ["--explain", output, "--method", method, "--probe", 64, "--episodes", 5]
    code, out, err = run(tmp_path / "run", *arguments)
    assert (code, err) == (0, "")
    assert "return without it" in out
    report = json.loads((tmp_path / "run" / "explanation.json").read_text())
    first, *others = report["features"]
    assert (first["feature"], first["share"]) == (3, pytest.approx(1.0))
    assert all(row["share"] == pytest.approx(0.0, abs=1e-6) for row in others)
    if output == "action":
        drop = [report["return"] - row["masked_return"] for row in report["features"]]
        assert drop[0] > 20
        assert drop[1:] == [0.0, 0.0, 0.0]
    least, largest = (report["extremes"][end]["output"] for end in ("least", "largest"))
    assert least < largest


class Bytes(gymnasium.ObservationWrapper):
    """CartPole that is seen in bytes, as the memory of an Atari machine is."""

    def __init__(self):
        super().__init__(CartPoleEnv())
        self.observation_space = spaces.Box(0, 255, (4,), np.uint8)

    def observation(self, obs):
        return np.clip(128 + 40 * obs, 0, 255).astype(np.uint8)


gymnasium.register("tests/Bytes-v0", entry_point=f"{__name__}:Bytes", max_episode_steps=50)


@pytest.mark.parametrize("normalize", [False, True])
def test_bytes_are_explained_and_given_back_as_bytes(run, tmp_path, normalize):
    """To an agent that looks at the last of them alone."""
    tasks, folder = envs.make("tests/Bytes-v0", num_envs=2), tmp_path / "run"
    agent = trained(PPO, folder, tasks, 64, env="tests/Bytes-v0", normalize_obs=normalize)
    with torch.no_grad():
        agent.network.trunk[0].weight[:, :3] = 0.0
        agent.network.trunk[0].weight[0, 3, 5] = 0.1
    Checkpoint(folder).write(Run(agent, tasks, 10_000))
    probe = ["--probe", 64, "--episodes", 1]
    for output, method in product(("action", "value"), ("gradient", "integrated", "lrp")):
        code, _, err = run(folder, "--explain", output, "--method", method, *probe)
        assert (code, err) == (0, "")
        first = json.loads((folder / "explanation.json").read_text())["features"][0]
        assert (first["feature"], first["share"]) == (3, pytest.approx(1.0))
    code, _, err = run(folder, "--unit", "policy.trunk.0:5", *probe)
    assert (code, err) == (0, "")
    found = json.loads((folder / "activation.json").read_text())
    for end in ("least", "largest"):
        seen = found["seen"][end]
        assert seen == [int(byte) for byte in seen]
        assert found["extremes"][end]["obs"][3] == pytest.approx(seen[3], rel=1e-4)


def test_a_masked_byte_is_held_at_the_one_nearest_to_its_mean(tmp_path, monkeypatch):
    trained(
        PPO, tmp_path / "run", envs.make("tests/Bytes-v0", num_envs=2), 64, env="tests/Bytes-v0"
    )

    def seen(agent, tasks, *arguments):
        return SimpleNamespace(mean=tasks.reset(0)[0])

    monkeypatch.setattr(explaining, "evaluate", seen)
    report = explaining.explain(tmp_path / "run", "value", "gradient", probe=64)
    for row in report["features"]:
        assert row["masked_return"][row["feature"]] == round(row["mean"])


def test_of_an_action_of_several_numbers_it_is_said_which_is_explained(run, tmp_path):
    pytest.importorskip("Box2D")
    tasks = envs.make("LunarLanderContinuous-v3", num_envs=2)
    trained(AGENTS["td3"], tmp_path / "run", tasks, 64, env="LunarLanderContinuous-v3")
    code, out, err = run(tmp_path / "run", "--explain", "action", "--probe", 16, "--episodes", 1)
    assert (code, err) == (0, "")
    assert "the action's first number of 2 of td3 by integrated" in " ".join(out.split())


@pytest.mark.parametrize("normalize", [False, True])
def test_where_a_unit_is_largest_is_said_in_the_units_of_the_task(run, tmp_path, tasks, normalize):
    """Of a unit that answers to the pole's speed alone: at the ends of what was seen of it."""
    folder = tmp_path / "run"
    agent = trained(PPO, folder, tasks, steps=64, normalize_obs=normalize)
    with torch.no_grad():
        agent.network.trunk[0].weight[0, :, 5] = torch.tensor([0.0, 0.0, 0.0, 0.1])
    Checkpoint(folder).write(Run(agent, tasks, 10_000))
    code, out, err = run(folder, "--unit", "policy.trunk.0:5", "--probe", 64)
    assert (code, err) == (0, "")
    assert "unit policy.trunk.0:5 of ppo" in " ".join(out.split())
    report = json.loads((folder / "activation.json").read_text())
    for end in ("least", "largest"):
        reached, seen = report["extremes"][end]["obs"][3], report["seen"][end][3]
        assert reached == pytest.approx(seen, rel=1e-4)
    assert report["extremes"]["least"]["output"] < report["extremes"]["largest"]["output"]


def test_what_cannot_be_explained_is_one_clear_line(run, tmp_path, tasks):
    trained(AGENTS["qrdqn"], tmp_path / "run", tasks)
    code, out, err = run(tmp_path / "run", "--explain", "value", "--method", "lrp")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "use integrated gradients" in err
    for output in ("value", "action"):
        code, _, err = run(*(tmp_path / "run", "--explain", output, "--probe", 16, "--episodes", 1))
        assert (code, err) == (0, "")


def test_bad_input_is_one_clear_line(run, tmp_path):
    def refused(result, message):
        code, out, err = result
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err

    own = VectorEnv(Scripted(5))
    agent = small(PPO, own)
    train(agent, own, 64, [Recorder(tmp_path / "own"), Checkpoint(tmp_path / "own")])
    for words in ([], ["--explain", "value"], ["--unit", "policy.trunk.0:0"]):
        refused(run(tmp_path / "own", *words), "Scripted, was made by a program: it is not regis")
    refused(run(tmp_path / "nothing"), "no folder")
    refused(run(tmp_path), "not a run's folder")
    refused(run(tmp_path, "--replay"), "holds no post-mortem")
    refused(run(tmp_path, "--gradients", 0), "--gradients is 0")
    refused(run(tmp_path, "--unit", "a:0", "--replay"), "--unit goes without")
    refused(run(tmp_path, "--explain", "action", "--replay"), "--explain goes without")
    refused(run(tmp_path, "--method", "lrp"), "--method lrp is a way to explain: give --explain")
    (tmp_path / "postmortems" / "x").mkdir(parents=True)
    (tmp_path / "postmortems" / "x" / "report.json").write_text("{}")
    refused(run(tmp_path, "--replay"), "holds no post-mortem")
