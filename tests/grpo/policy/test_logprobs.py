"""Chunked log-probs against the plain computation."""

import pytest
import torch
from torch import nn

from grpo.policy import logprobs
from grpo.policy.logprobs import selected_logprobs


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_chunked_value_gradient_and_entropy_equal_plain_log_softmax(monkeypatch, bias, temperature, entropy_gradient):
    # 3 tokens at a time over 11 forward, 13 words over 50 backward: uneven last chunks.
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 3 * 50)
    monkeypatch.setattr(logprobs, "MIN_WORDS", 7)
    torch.manual_seed(0)
    hidden = torch.randn(11, 8, requires_grad=True)
    head = nn.Linear(8, 50, bias=bias)
    target, upstream, upstream_entropy = torch.randint(50, (11,)), torch.randn(11), torch.randn(11)
    wrt = [hidden, *head.parameters()]

    logp = torch.log_softmax(head(hidden) / temperature, dim=1)
    plain = logp.gather(1, target[:, None]).squeeze(1)
    plain_entropy = -(logp.exp() * logp).sum(1)
    plain_loss = plain @ upstream + (plain_entropy @ upstream_entropy if entropy_gradient else 0)
    plain_grads = torch.autograd.grad(plain_loss, wrt)
    ours, entropy = selected_logprobs(hidden, head, target, temperature, entropy_gradient)
    assert entropy.requires_grad == entropy_gradient
    our_grads = torch.autograd.grad(ours @ upstream + entropy @ upstream_entropy, wrt)

    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(entropy, plain_entropy, atol=1e-5, rtol=0)
    for mine, theirs in zip(our_grads, plain_grads, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_a_frozen_head_gets_no_gradient():
    head = nn.Linear(4, 6, bias=False).requires_grad_(False)
    hidden = torch.randn(2, 4, requires_grad=True)
    selected_logprobs(hidden, head, torch.tensor([1, 5]))[0].sum().backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().sum() > 0


@pytest.mark.parametrize(("n", "width"), [(151_936, 8_191), (151_936, 16_384), (50_257, 6_000)])
def test_the_chunks_of_a_gpu_start_where_its_fast_matrix_products_can(n, width):
    chunks = logprobs._chunks(n, width, torch.device("cuda"), at_least=logprobs.MIN_WORDS)
    assert len(chunks) > 1
    assert all(chunk.start % 64 == 0 for chunk in chunks)
    assert chunks[-1].start < n <= chunks[-1].stop
    assert (chunks[0].stop - chunks[0].start) * width <= logprobs.CHUNK_LOGITS_GPU
