"""The command: exit codes, where runs go, what resuming accepts, and that it starts without torch."""

import signal
import subprocess
import sys
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from eval.problems.protocol import ProtocolError
from eval.stats.compare import CompareError
from eval.store import StoreError
from grpo.config import ModelError
from grpo.losses import LossError
from grpo.prompts import PromptError
from grpo.rollout.engine import RolloutError, WeightSyncError
from grpo.signal.advantage import AdvantageError
from recipes.command.main import main
from recipes.errors import Stopped, exit_codes
from recipes.jobs.eval_model import EvalError
from recipes.jobs.filter import FilterError
from recipes.jobs.import_gguf import ImportGGUFError
from recipes.jobs.score import ScoreError
from recipes.schema.load import RecipeError, load_recipe, save_recipe
from recipes.schema.plan import PlanError
from recipes.tasks import TaskError
from rewards import RewardError

TINY = "tiny_arithmetic_cpu"


@pytest.fixture
def calls(monkeypatch):
    """Stands in for recipes.jobs.train: records each call; raises or returns what `calls.outcome` holds."""
    made = []
    fake = ModuleType("recipes.jobs.train")

    def run(recipe, source, output, resume, overrides):
        made.append((recipe, source, output, resume, overrides))
        if isinstance(fake.outcome, BaseException):
            raise fake.outcome
        return fake.outcome

    fake.run, fake.outcome, fake.made = run, 0, made
    monkeypatch.setitem(sys.modules, "recipes.jobs.train", fake)
    return fake


def zero(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def stored(tmp_path):
    """A run's directory that holds the resolved recipe."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_recipe(load_recipe(TINY), folder / "recipe.yaml")
    return folder


@pytest.mark.parametrize(
    "module", ["recipes.command.main", "recipes.errors", "recipes.schema.load", "recipes.schema.recipe"]
)
def test_the_command_starts_without_the_heavy_packages(module):
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'transformers', 'vllm', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["recipes", "--help"], ["serve", "--help"]])
def test_every_command_has_help(arguments):
    result = zero(*arguments)
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_version_is_the_distributions():
    from importlib.metadata import version

    assert zero("--version").output.strip() == version("zero-rl")


def test_recipes_lists_each_built_in_with_its_purpose():
    output = zero("recipes").output
    assert TINY in output
    assert "Teach the built-in model" in output


def test_run_hands_over_the_recipe_with_its_overrides(calls, tmp_path):
    assert (
        zero("run", TINY, "--set", "train.steps=3", "--set", "train.seed=5", "--output", tmp_path / "o").exit_code == 0
    )
    ((recipe, source, output, resume, overrides),) = calls.made
    assert recipe == load_recipe(TINY, ["train.steps=3", "train.seed=5"])
    assert (source, output, resume) == (TINY, tmp_path / "o", False)
    assert overrides == ["train.steps=3", "train.seed=5"]


def test_a_run_without_output_goes_to_runs_by_recipe_and_time(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zero("run", TINY)
    folder = calls.made[0][2]
    assert folder.parent.name == "runs"
    assert folder.name.startswith(f"{TINY}-2")


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (RolloutError("the server died"), 1, "failed: the server died"),
        (FloatingPointError("the gradient's norm is nan"), 1, "failed: the gradient's norm is nan"),
        (RecipeError("a"), 2, "error: a"),
        (TaskError("b"), 2, "error: b"),
        (RewardError("c"), 2, "error: c"),
        (ModelError("d"), 2, "error: d"),
        (MemoryError("no room"), 1, "failed: no room"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM"),
        (Stopped(signal.SIGHUP), 129, "stopped by SIGHUP"),
    ],
)
def test_how_a_run_ends_is_its_exit_code(calls, outcome, code, said, tmp_path):
    calls.outcome = outcome
    result = zero("run", TINY, "--output", tmp_path / "o")
    assert result.exit_code == code
    assert result.stderr.strip() == said


OURS = {
    1: [RolloutError, WeightSyncError, FloatingPointError, OSError],
    2: [
        AdvantageError,
        CompareError,
        EvalError,
        FilterError,
        ImportGGUFError,
        LossError,
        ModelError,
        PlanError,
        PromptError,
        ProtocolError,
        RecipeError,
        RewardError,
        ScoreError,
        StoreError,
        TaskError,
    ],
}


@pytest.mark.parametrize(("code", "kind"), [(code, kind) for code, kinds in OURS.items() for kind in kinds])
def test_an_error_means_the_same_to_every_command(code, kind, capsys):
    with pytest.raises(typer.Exit) as ended, exit_codes():
        raise kind("what is wrong")
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == f"{'error' if code == 2 else 'failed'}: what is wrong\n"


def test_a_bug_is_not_passed_off_as_bad_input(calls, tmp_path):
    calls.outcome = KeyError("bug")
    result = zero("run", TINY, "--output", tmp_path / "o")
    assert isinstance(result.exception, KeyError)


def test_bad_input_exits_2_with_one_message_on_stderr_and_starts_nothing(calls):
    result = zero("run", TINY, "--set", "train.setps=3")
    assert (result.exit_code, result.stdout, calls.made) == (2, "", [])
    assert "train.setps: unknown key (did you mean 'steps'?)" in result.stderr


def test_an_output_that_is_in_use_names_both_ways_on(calls, stored):
    result = zero("run", TINY, "--output", stored)
    assert (result.exit_code, calls.made) == (2, [])
    assert f"{stored} is not empty; add --resume to go on with that run, or name another" in result.stderr


def test_an_output_that_is_a_file_is_refused(calls, tmp_path):
    (tmp_path / "f").write_text("")
    result = zero("run", TINY, "--output", tmp_path / "f")
    assert (result.exit_code, calls.made) == (2, [])
    assert "is a file" in result.stderr


def test_a_run_goes_on_with_other_servers_than_it_began_with(calls, stored):
    urls = "rollout.server.urls=[http://127.0.0.1:8000]"
    result = zero("run", TINY, "--resume", "--output", stored, "--set", urls)
    assert result.exit_code == 0, result.stderr
    assert calls.made[0][0] == load_recipe(TINY, [urls])
    save_recipe(load_recipe(TINY, [urls]), stored / "recipe.yaml")
    assert zero("run", TINY, "--resume", "--output", stored, "--set", "rollout.server.replicas=2").exit_code == 0
    refused = zero("run", TINY, "--resume", "--output", stored, "--set", "rollout.group_size=4")
    assert "rollout.group_size is 16 there, 4 here" in refused.stderr
    assert "rollout.server" not in refused.stderr.partition(" is 16")[0]


def test_resume_needs_a_run(calls, tmp_path):
    assert "no --output is given" in zero("run", TINY, "--resume").stderr
    result = zero("run", TINY, "--resume", "--output", tmp_path)
    assert (result.exit_code, calls.made) == (2, [])
    assert f"{tmp_path} has no recipe.yaml" in result.stderr


@pytest.mark.parametrize("by_name", [True, False])
def test_resume_goes_on_with_the_same_recipe(calls, stored, by_name):
    spec = TINY if by_name else stored / "recipe.yaml"
    assert zero("run", spec, "--resume", "--output", stored).exit_code == 0
    assert calls.made == [(load_recipe(TINY), str(spec), stored, True, [])]


def test_resume_may_change_the_number_of_steps(calls, stored):
    assert zero("run", TINY, "--resume", "--output", stored, "--set", "train.steps=999").exit_code == 0
    assert calls.made[0][0].train.steps == 999


def test_resume_refuses_another_recipe_and_names_what_differs(calls, stored):
    size = load_recipe(TINY).rollout.group_size
    result = zero("run", TINY, "--resume", "--output", stored, "--set", "train.seed=3", "--set", "rollout.group_size=3")
    assert (result.exit_code, calls.made) == (2, [])
    assert "train.seed is 0 there, 3 here" in result.stderr
    assert f"rollout.group_size is {size} there, 3 here" in result.stderr


def test_resume_does_not_change_the_number_of_steps_in_silence(calls, stored):
    save_recipe(load_recipe(TINY, ["train.steps=17"]), stored / "recipe.yaml")
    result = zero("run", TINY, "--resume", "--output", stored)
    assert (result.exit_code, calls.made) == (2, [])
    assert "train.steps is 17 there" in result.stderr


def test_serve_starts_the_rollout_server(monkeypatch):
    from grpo.rollout.vllm import serve

    asked = []
    monkeypatch.setattr(serve, "serve", lambda model, port, host, run: asked.append((model, port, host)))
    assert zero("serve", "some/model", "--port", "8123").exit_code == 0
    assert zero("serve", "some/model", "--host", "10.0.0.1").exit_code == 0
    assert asked == [("some/model", 8123, "127.0.0.1"), ("some/model", 8000, "10.0.0.1")]
