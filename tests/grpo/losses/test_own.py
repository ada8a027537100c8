"""A loss of the user's own: found by file or module, called with what its annotation says, its mistakes named."""

import pytest
import torch

from grpo.config import GRPOConfig
from grpo.losses import LossError, LossInputs
from grpo.losses.objective import Objective
from tests.ragged import gradient, ours, ragged_inputs, weighted

MINE = """
import torch
from grpo.losses import LossInputs

def mine(inputs: LossInputs, low: float = 0.2) -> torch.Tensor:
    ratio_T = torch.exp(inputs.logprobs_T - inputs.old_logprobs_T)
    kept_T = ratio_T.clamp(1 - low, 1.2)
    return torch.maximum(-ratio_T * inputs.advantage_T, -kept_T * inputs.advantage_T)
"""


def advantage_less(inputs: LossInputs) -> torch.Tensor:
    return inputs.logprobs_T**2


def nan_at_3(inputs: LossInputs) -> torch.Tensor:
    factor_T = torch.ones_like(inputs.advantage_T)
    factor_T[3] = float("nan")
    return inputs.logprobs_T * factor_T


def one_number(inputs: LossInputs) -> torch.Tensor:
    return (inputs.logprobs_T * inputs.advantage_T).mean()


def detached(inputs: LossInputs) -> torch.Tensor:
    return -inputs.logprobs_T.detach() * inputs.advantage_T


def a_list(inputs: LossInputs) -> list[float]:
    return inputs.logprobs_T.tolist()


def broken(inputs: LossInputs) -> torch.Tensor:
    return inputs.logprobs_T * inputs.nothing_T


def test_ten_lines_in_a_file_compute_what_the_built_in_does(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    inputs, config = ragged_inputs(1), GRPOConfig(loss=f"{tmp_path}/mine.py:mine", loss_args={"low": 0.3})
    own = gradient(weighted(inputs, config), Objective(config))
    built_in = ours(inputs, GRPOConfig(loss="bnpo", clip_low=0.3))
    assert own[0] == pytest.approx(built_in[0], abs=1e-6)
    assert (own[1] - built_in[1]).abs().max() < 1e-6


def test_a_function_of_a_module_needs_no_advantage():
    inputs = ragged_inputs(2)
    config = GRPOConfig(loss="tests.grpo.losses.test_own:advantage_less", correction="none", normaliser="constant")
    _, grad_T, _ = ours(inputs, config)
    # d sum w x^2 / dx = 2 w x, w = 1 / (8 completions * 12 tokens)
    assert (grad_T - 2 * inputs.logprobs_T.detach() / 96).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan_at_3", r"returned nan for token 3 (1 of 42 tokens are NaN or infinite), expected finite values"),
        ("one_number", "returned shape (), expected (42,): the loss of each token"),
        ("detached", "returned a tensor without gradient, expected one computed from inputs.logprobs_T"),
        ("a_list", "returned list, expected a tensor of shape (42,)"),
        ("broken", "raised AttributeError: 'LossInputs' object has no attribute 'nothing_T', while computing the loss"),
    ],
)
def test_what_no_gradient_can_be_taken_of_is_one_clear_error(name, message):
    objective = Objective(GRPOConfig(loss=f"tests.grpo.losses.test_own:{name}"))
    with pytest.raises(LossError) as error:
        objective(ragged_inputs(3))
    assert str(error.value).startswith(f"train.loss 'tests.grpo.losses.test_own:{name}' ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_function_that_is_not_there_is_named_with_the_nearest(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(LossError, match=r"mine.py has no function 'mien' \(did you mean 'mine'\?"):
        Objective(GRPOConfig(loss=f"{tmp_path}/mine.py:mien"))


def test_an_argument_that_the_function_does_not_take_is_one_clear_error(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    objective = Objective(GRPOConfig(loss=f"{tmp_path}/mine.py:mine", loss_args={"lwo": 1}))
    with pytest.raises(LossError, match="unexpected keyword argument 'lwo'"):
        objective(ragged_inputs(3))
