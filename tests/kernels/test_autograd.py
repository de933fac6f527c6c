"""The estimators: what flows back through a rounding."""

import pytest
import torch
from torch import Tensor

import limprec as lp
from limprec.errors import KernelError
from limprec.kernels import Backend, Key, round_through


def back(x: Tensor, **options: object) -> Tensor:
    x = x.clone().requires_grad_()
    y = lp.quantize(x, **options)  # type: ignore[arg-type]
    (y * torch.arange(1.0, x.numel() + 1)).sum().backward()
    assert x.grad is not None
    return x.grad


X = torch.tensor([-500.0, -1.3, 0.0, 1e-9, 3.3, 448.0, 449.0, float("inf"), float("nan")])


def test_no_gradient_unless_asked() -> None:
    x = X.clone().requires_grad_()
    assert not lp.quantize(x, "e4m3").requires_grad


@pytest.mark.parametrize("fmt", ["e4m3", "fx8.4", "dfx8", "e4m3:stochastic"])
def test_straight_through_is_the_identity(fmt: str) -> None:
    grad = back(X[:-2], fmt=fmt, gradient="straight_through", seed=0)
    assert grad.tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_clipped_stops_beyond_the_range() -> None:
    assert back(X, fmt="e4m3", gradient="clipped").tolist() == [0, 2, 3, 4, 5, 6, 0, 0, 0]
    assert back(X[:7], fmt="ufx4.1", gradient="clipped").tolist() == [0, 0, 3, 4, 5, 0, 0]
    assert back(X[:7], fmt="dfx8", gradient="clipped").tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_the_value_is_the_same_with_and_without() -> None:
    for gradient in ("straight_through", "clipped"):
        y = lp.quantize(X.clone().requires_grad_(), "e5m2:stochastic", seed=3, gradient=gradient)
        assert torch.equal(
            y.detach().nan_to_num(), lp.quantize(X, "e5m2:stochastic", seed=3).nan_to_num()
        )


def test_the_gradient_can_be_rounded_too() -> None:
    x = torch.ones(4, requires_grad=True)
    precision = lp.parse_precision("dfx4:stochastic")
    upstream = torch.tensor([1.0, 0.3, 0.21, -0.77])
    round_through(x, None, None, precision, Key(5)).backward(upstream)
    assert x.grad is not None
    assert torch.equal(x.grad, lp.quantize(upstream, precision, seed=5))


def test_errors() -> None:
    with pytest.raises(KernelError, match="unknown gradient 'ste'; use one of straight_through, "):
        lp.quantize(X, "e4m3", gradient="ste")
    with pytest.raises(KernelError, match="gradient with out or backend; leave them out"):
        lp.quantize(X, "e4m3", gradient="clipped", out=X.clone())
    with pytest.raises(KernelError, match="gradient with out or backend"):
        lp.quantize(X, "e4m3", gradient="clipped", backend=Backend.REFERENCE)
