"""Products of 16-bit tensors in float32: what they compute, and what they leave alone."""

import torch
import torch.nn.functional as F
from torch import nn

from limprec.lab.products import WideProducts


def narrow(*shape: int, requires_grad: bool = True) -> torch.Tensor:
    return torch.randn(shape).bfloat16().requires_grad_(requires_grad)


def test_a_product_is_rounded_once_forward_and_back() -> None:
    torch.manual_seed(0)
    x, layer = narrow(8, 300), nn.Linear(300, 5).bfloat16()
    with WideProducts():
        y = layer(x)
    assert y.dtype == torch.bfloat16
    exact = x.double() @ layer.weight.double().t() + layer.bias.double()
    # float32 sums are off by far less than the half ulp of bfloat16 that the rounding may take
    assert torch.allclose(y.double(), exact, rtol=2**-8 * 1.01, atol=1e-5)
    error = torch.randn(8, 5).bfloat16()
    y.backward(error)
    assert x.grad is not None and layer.weight.grad is not None  # noqa: PT018
    assert x.grad.dtype == layer.weight.grad.dtype == torch.bfloat16
    wanted = error.double() @ layer.weight.double()
    assert torch.allclose(x.grad.double(), wanted, rtol=2**-8 * 1.01, atol=1e-5)


def test_convolutions_and_attention_keep_their_dtype_and_come_closer() -> None:
    torch.manual_seed(0)
    x, w = narrow(2, 64, 8, 8), narrow(16, 64, 3, 3)
    q, k, v = (narrow(2, 4, 32, 16) for _ in range(3))
    with WideProducts():
        y, a = F.conv2d(x, w, padding=1), F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert y.dtype == a.dtype == torch.bfloat16
    exact = F.conv2d(x.double(), w.double(), padding=1)
    assert torch.allclose(y.double(), exact, rtol=2**-8 * 1.01, atol=1e-4)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
    assert torch.allclose(a.double(), exact, rtol=2**-8 * 1.01, atol=1e-4)


def test_everything_else_is_left_alone() -> None:
    x, y = torch.randn(4, 4), torch.randn(4, 4)
    with WideProducts():
        assert torch.equal(F.linear(x, y), F.linear(x, y))
        assert F.linear(x.double(), y.double()).dtype == torch.float64
        assert F.relu(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(F.linear(x, y), x @ y.t())
