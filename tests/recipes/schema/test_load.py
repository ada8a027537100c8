"""Recipes: every built-in loads, a stored one is equal, and whatever is wrong is said in this project's words."""

from pathlib import Path

import pytest

from recipes.schema.load import RecipeError, builtin_recipes, load_recipe, model_settings, save_recipe

RECIPE = """\
# A recipe.
model: {path: some/model}
task: {name: gsm8k}
rewards:
  - {name: accuracy}
"""
NAMES = [
    "cispo_3b_math_2gpu",
    "dapo_3b_math_2gpu",
    "dr_grpo_1.5b_math_1gpu",
    "gspo_1.7b_math_2gpu",
    "guess_number_cpu",
    "puzzles_1.7b_1gpu",
    "puzzles_sums_cpu",
    "qwen2.5_0.5b_gsm8k",
    "qwen2.5_32b_math_2x8gpu",
    "qwen2.5_7b_math_8gpu",
    "qwen2.5_coder_1.5b_mbpp_1gpu",
    "r1_qwen2.5_1.5b",
    "r1_smollm2_135m_cpu",
    "r1_tiny_cpu",
    "r1_zero_3b_math_2gpu",
    "smollm2_135m_cpu",
    "smollm2_135m_lora_cpu",
    "tiny_arithmetic_2x2_cpu",
    "tiny_arithmetic_cpu",
    "tiny_diffusion_cpu",
    "tiny_program_cpu",
]
CHAINS = ["r1_qwen2.5_1.5b", "r1_smollm2_135m_cpu", "r1_tiny_cpu"]


def write(folder: Path, text: str = RECIPE) -> str:
    path = folder / "r.yaml"
    path.write_text(text)
    return str(path)


def problems(spec: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(spec, overrides)
    text = str(caught.value)
    assert "pydantic" not in text
    assert "Input should" not in text
    return text.split("\n")


def test_the_built_in_recipes_are_these():
    assert list(builtin_recipes()) == NAMES


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CHAINS])
def test_a_built_in_recipe_opens_with_a_comment_and_stores_as_an_equal_recipe(name, tmp_path):
    path, comment = builtin_recipes()[name]
    assert path.read_text().startswith(f"# {comment}")
    assert any(word in comment for word in ("minutes", "hours", "day", "Days"))
    recipe = load_recipe(name)
    save_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


def test_the_built_in_model_is_a_folder_only_where_it_is_used():
    recipe = load_recipe("tiny_arithmetic_cpu")
    assert recipe.model.path == "tiny"
    assert (Path(model_settings(recipe).path) / "config.json").is_file()
    assert Path(model_settings(recipe).path).is_absolute()


def test_the_recipe_of_two_processes_and_two_servers_is_the_demos_but_for_these():
    sizes = ["train.processes=2", "rollout.server.replicas=2"]
    assert load_recipe("tiny_arithmetic_2x2_cpu") == load_recipe("tiny_arithmetic_cpu", sizes)


def test_the_tiny_recipe_prompts_as_the_tiny_model_was_pretrained():
    from recipes.tiny import corpus

    assert load_recipe("tiny_arithmetic_cpu").task.template == corpus.PROMPT


def test_overrides_reach_into_mappings_lists_and_absent_sections(tmp_path):
    recipe = load_recipe(
        write(tmp_path), ["train.steps=7", "rewards.0.weight=0.5", "model.lora.r=4", "rollout.server.urls=[http://a]"]
    )
    assert recipe.train.steps == 7
    assert recipe.rewards[0].weight == 0.5
    assert recipe.model.lora is not None
    assert recipe.model.lora.r == 4
    assert recipe.rollout.server.urls == ["http://a"]


@pytest.mark.parametrize("text", ["1e-6", "1E-6", "1.0e-6", "0.000001"])
def test_a_float_may_be_written_without_a_point(text, tmp_path):
    assert load_recipe(write(tmp_path), [f"train.learning_rate={text}"]).train.learning_rate == 1e-6
    path = write(tmp_path, RECIPE + f"train: {{learning_rate: {text}}}\n")
    assert load_recipe(path).train.learning_rate == 1e-6


def test_an_unknown_key_names_file_line_and_nearest(tmp_path):
    path = write(tmp_path, RECIPE + "train:\n  lerning_rate: 1.0\n")
    (line,) = problems(path)
    assert line.startswith(
        f"{path}:7: train.lerning_rate: unknown key (did you mean 'learning_rate'?); allowed here: backend, steps,"
    )


def test_a_known_key_at_the_wrong_place_is_told_where_it_belongs(tmp_path):
    (line,) = problems(write(tmp_path), "group_size=4")
    assert "--set group_size=4: group_size: unknown key (did you mean 'rollout.group_size'?)" in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.steps=5", "trian: unknown key (did you mean 'train'?)"),
        ("rewards.0.wieght=1", "rewards.0.wieght: unknown key (did you mean 'weight'?)"),
        ("train.steps=ten", "train.steps: got 'ten', expected a whole number"),
        ("train.steps=true", "train.steps: got true, expected a whole number"),
        ("train.steps=2.5", "train.steps: got 2.5, expected a whole number"),
        ("train.steps=0", "train.steps: got 0, expected a number above 0"),
        ("train.clip_low=1.5", "train.clip_low: got 1.5, expected a number of at most 1"),
        ("train.learning_rate=fast", "train.learning_rate: got 'fast', expected a number"),
        ("train.loss=grpoo", "train.loss: got 'grpoo', expected grpo, bnpo, dr_grpo, dapo, cispo, gspo, gspo_token,"),
        ("train.loss=grpoo", "path/to/file.py:function or package.module:function (did you mean 'grpo'?)"),
        ("train.loss_args={a: 1}", "train.loss_args: grpo takes none; they are for a loss of your own"),
        ("train={loss: gspo, clip_max: 3}", "train.clip_max: gspo has no two-sided clip"),
        ("train.clip_max=1.1", "train.clip_max: got 1.1, expected more than 1 + clip_high (1.2)"),
        ("train={loss: reinforce, updates_per_batch: 2}", "train.updates_per_batch: got 2, but loss: reinforce has no"),
        (
            "train={kl_coef: 0.1, kl_estimator: k1}",
            "train.kl_estimator: the gradient of k1 in the loss is 0 on average",
        ),
        ("train={kl_corrected: true, kl_place: reward}", "train.kl_corrected: only a KL in the loss can be corrected"),
        (
            "train={entropy_target: 1, entropy_coef: 2}",
            "train.entropy_coef: got 2.0, expected at most entropy_coef",
        ),
        ("train.correction_floor=2.5", "train.correction_floor: got 2.5, expected less than correction_cap (2.0)"),
        ("train={correction: none, correction_floor: 0.5}", "train.correction_floor: none has no lower bound"),
        ("train.stale_floor=3", "train.stale_floor: got 3.0, expected less than stale_cap (2.0)"),
        ("train.mask_truncated=1", "train.mask_truncated: got 1, expected true or false"),
        ("model.path=5", "model.path: got 5, expected text"),
        ("model=5", "model: got 5, expected a mapping (key: value)"),
        ("model={}", "model.path: required, but absent"),
        ("model.lora.target_modules=5", "model.lora.target_modules: got 5, expected text or a list"),
        ("rewards=[]", "rewards: got [], expected a list of at least 1"),
        ("rewards.1.weight=1", "rewards is a list of 1"),
        ("model.path.x=1", "model.path is 'some/model', which has no keys"),
        ("train.steps", "expected key=value, such as train.steps=50"),
        ("task.template={question}=", "is not a YAML value; quote it"),
        (
            "task.template=Solve",
            "task.template: got 'Solve', expected r1_zero, chat, or a text that contains {question}",
        ),
        ("task.answer_pattern='####'", "task.answer_pattern: got '####' with 0 groups, expected one group"),
        ("task.answer_pattern='('", "task.answer_pattern: got '(', which is no regular expression"),
        ("task.name=null", "task.name and dataset: got neither"),
        ("task={name: math, dataset: a/b, columns: {question: q, answer: a}}", "task.name and dataset: got both"),
        ("task.system=Hi", "task.system: only template: chat has a system prompt"),
        (
            "task.config={levels: [1]}",
            "only generated tasks (arithmetic, countdown, reasoning_gym) take one",
        ),
        ("task.held_out_split=train", "task.held_out_split: 'train' is the split that is trained on"),
        ("task={name: countdown, split: a}", "task.split: has no meaning for countdown"),
        ("task={name: countdown, path: a}", "task.path: only gsm8k and math have one"),
        ("task={dataset: a/b}", "task.columns: required with dataset"),
        ("task.problems=3", "task.problems: got 3, expected at least rollout.prompts_per_step (8)"),
        ("rollout.group_size=1", "rollout.group_size: a group of 1 is its own baseline"),
        ("rollout.top_p=0.9", "rollout.top_p < 1"),
        ("rollout={engine: transformers, max_staleness: 1}", "rollout.max_staleness: got 1, but engine: transformers"),
        (
            "rollout={engine: transformers, server: {urls: [http://a]}}",
            "rollout.server.urls: engine: transformers has no",
        ),
        ("rollout={engine: transformers, server: {replicas: 2}}", "rollout.server.replicas: 2 servers of our own are"),
        ("rollout.server={replicas: 2, urls: [http://a]}", "rollout.server.replicas: 2 servers of our own are started"),
        ("rollout.server.urls=[http://a, http://a/]", "expected each server once"),
        ("rollout.server.urls=['http://me:secret@a']", "an address must not hold a password"),
        ("train.warmup_steps=101", "train.warmup_steps: got 101, expected at most train.steps (100)"),
        ("train.gpus=[0, 1]", "train.gpus: got [0, 1], expected one for each process (processes: 1)"),
        ("train.replicas=3", "replicas: got 3, expected a divisor of processes (1)"),
        ("train={processes: 2, backend: trl}", "processes: got 2, but backend: trl trains in one"),
        (
            "rollout.server={gpus: [0, 1, 2], tensor_parallel: 2}",
            "rollout.server.tensor_parallel: got 2, expected a divisor",
        ),
        ("task.read=[boxed]", "rewards.0.args.read: got None, task.read is ['boxed']; give both the same"),
        ("task.read=[]", "task.read: got [], expected a list of at least 1"),
        ("eval.max_tokens=1000", "eval.max_tokens: got 1000, expected at most rollout.max_tokens (256)"),
        ("eval.samples=4", "eval.samples: 4 greedy completions would all be the same"),
    ],
)
def test_a_refused_value_names_key_value_and_what_is_allowed(override, message, tmp_path):
    (line,) = problems(write(tmp_path), override)
    assert message in line


def test_stale_samples_without_correction_are_refused(tmp_path):
    (line,) = problems(write(tmp_path), "rollout.max_staleness=2", "train.correction=none")
    assert "--set train.correction=none: train.correction: none with rollout.max_staleness: 2" in line
    load_recipe(write(tmp_path), ["rollout.max_staleness=2", "train.correction=none", "train.stale_correction=none"])


def test_a_loss_brings_the_clips_of_its_paper_unless_the_recipe_gives_others(tmp_path):
    gspo = load_recipe(write(tmp_path), ["train.loss=gspo"]).train
    assert (gspo.clip_low, gspo.clip_high, gspo.normaliser_kind) == (3e-4, 4e-4, "sequence")
    dapo = load_recipe(write(tmp_path), ["train.loss=dapo", "train.clip_low=0.1"]).train
    assert (dapo.clip_low, dapo.clip_high, dapo.normaliser_kind) == (0.1, 0.28, "token")


def test_server_and_trainer_on_one_gpu_need_a_transfer_that_can(tmp_path):
    gpus = ["train.gpus=[0]", "rollout.server.gpus=[0]"]
    (line,) = problems(write(tmp_path), *gpus, "rollout.server.weight_transfer=nccl")
    assert "rollout.server.gpus: [0] are the trainer's too" in line
    load_recipe(write(tmp_path), [*gpus, "rollout.server.weight_transfer=ipc"])


def test_all_problems_are_said_at_once(tmp_path):
    lines = problems(write(tmp_path), "train.steps=0", "train.setps=1", "model.dtype=float16", "rollout.engine=vlm")
    assert len(lines) == 4


def test_all_conflicts_are_said_at_once(tmp_path):
    assert len(problems(write(tmp_path), "rollout.group_size=1", "train.warmup_steps=500")) == 2


def test_a_repeated_key_is_refused_with_both_lines(tmp_path):
    path = write(tmp_path, RECIPE + "train:\n  steps: 1\n  steps: 2\n")
    assert problems(path) == [f"{path}:8: train.steps: given twice, first in {path}:7; keep one"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("model: {", "not valid YAML"), ("- a\n", "expected a mapping with model, task and rewards"), ("", "got null")],
)
def test_a_file_that_is_no_recipe_is_named(text, message, tmp_path):
    path = write(tmp_path, text)
    (line,) = problems(path)
    assert line.startswith(path)
    assert message in line


def test_missing_sections_are_named(tmp_path):
    path = write(tmp_path, "train: {steps: 3}\n")
    assert problems(path) == [f"{path}: {key}: required, but absent" for key in ("model", "task", "rewards")]


def test_an_unknown_recipe_lists_the_built_in_ones_and_the_nearest():
    (line,) = problems("tiny_arithmetic")
    assert "no such file and no built-in recipe (did you mean 'tiny_arithmetic_cpu'?)" in line
    assert all(name in line for name in NAMES)


def test_a_recipe_that_is_nearly_a_file_of_that_folder_is_told_its_name(tmp_path):
    (tmp_path / "mine.yaml").touch()
    (line,) = problems(str(tmp_path / "mine.yml"))
    assert f"(did you mean '{tmp_path}/mine.yaml'?)" in line


def test_a_reward_file_is_found_next_to_the_recipe_before_the_working_directory(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "mine.py").write_text("")
    monkeypatch.chdir(here)
    path = write(there, RECIPE + "  - {name: mine.py:brevity, weight: 0.1}\n")
    assert load_recipe(path).rewards[1].name == f"{there / 'mine.py'}:brevity"
    (there / "mine.py").unlink()
    assert load_recipe(path).rewards[1].name == f"{here / 'mine.py'}:brevity"
    (here / "mine.py").unlink()
    (line,) = problems(path)
    assert line == f"{path}:6: rewards.1.name: no file mine.py, neither in {there} nor in {here}"


def test_a_data_file_next_to_the_recipe_is_stored_with_its_full_name(tmp_path):
    (tmp_path / "mine.jsonl").write_text("")
    task = "task={dataset: mine.jsonl, columns: {question: q, answer: a}}"
    assert load_recipe(write(tmp_path), [task]).task.dataset == str(tmp_path / "mine.jsonl")
