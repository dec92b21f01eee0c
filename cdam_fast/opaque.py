"""A function as one opaque step for autograd, torch.func, torch.compile and torch.export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cdam_fast import compat
from cdam_fast.tracing import is_under_func_grad


def operator(
    name: str,
    schema: str,
    function: Callable[..., Any],
    fake: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    over: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """The function, whose tensors all lead with the same batch dim, as a step that nothing looks into.

    A `torch.library` operator ``cdam_fast::name`` where torch has them, else the function with the same gradient
    as a `torch.autograd.Function`. Differentiable once, with ``setup_context(ctx, inputs, output)`` and
    ``backward(ctx, *gradients)``; ``fake`` makes empty outputs of the right shapes. Under torch.vmap it is called once,
    by ``over(operator, size, in_dims, *inputs)``, None for `over_batch`.
    """
    if not compat.HAS_OPERATORS:
        if backward is None or setup_context is None:
            return function
        return _as_autograd_function(name, function, setup_context, backward)
    qualified = f"cdam_fast::{name}"
    # the schema in words: made from annotations it would need a Python in which those can be evaluated
    definition = torch.library.custom_op(qualified, function, mutates_args=(), schema=schema)
    definition.register_fake(fake)
    registered: Callable[..., Any] = getattr(torch.ops.cdam_fast, name)
    rule = over or over_batch

    def mapped(info: Any, in_dims: Sequence[int | None], *inputs: Any) -> Any:
        return rule(registered, info.batch_size, in_dims, *inputs)

    definition.register_vmap(mapped)
    if backward is None or setup_context is None:
        return registered
    definition.register_autograd(backward, setup_context=setup_context)
    transformed = _as_transformed_function(name, registered, setup_context, backward)

    def call(*inputs: Any) -> Any:
        return (transformed if is_under_func_grad() else registered)(*inputs)

    return call


def over_batch(operator: Callable[..., Any], size: int, in_dims: Sequence[int | None], *inputs: Any) -> Any:
    """The rule of torch.vmap: the mapped dim joins the batch dim. An output without a batch dim, 1-D, is left alone."""

    def joined(value: Any, dim: int | None) -> Any:
        if not isinstance(value, Tensor):
            return value
        return (value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)).flatten(0, 1)

    def apart(output: Tensor) -> Tensor:
        return output if output.dim() == 1 else output.reshape(size, output.shape[0] // size, *output.shape[1:])

    outputs = operator(*map(joined, inputs, in_dims))
    if isinstance(outputs, Tensor):
        return apart(outputs), 0
    return tuple(map(apart, outputs)), tuple(None if output.dim() == 1 else 0 for output in outputs)


def keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """The context of a backward pass that is refused."""


def refuse_second_derivative(ctx: Any, *gradients: Any) -> Any:
    """The backward of a backward pass: raise RuntimeError.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "torch.autograd of cdam_fast: got a second derivative (a gradient of a gradient by create_graph=True or by "
        "torch.func), takes first ones; backend='reference' has both"
    )


def _as_autograd_function(
    name: str, function: Callable[..., Any], setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = function(*inputs)
        setup_context(ctx, inputs, output)
        return output

    return _applied(name, {"forward": staticmethod(forward), "backward": staticmethod(backward)})


def _as_transformed_function(
    name: str, function: Callable[..., Any], setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """For torch.func.grad and what is made of it, which take no operator's gradient."""
    members = {
        "generate_vmap_rule": True,
        "forward": staticmethod(function),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
    }
    return _applied(name, members)


def _applied(name: str, members: dict[str, Any]) -> Callable[..., Any]:
    made: Any = type(name, (torch.autograd.Function,), members)
    applied: Callable[..., Any] = made.apply
    return applied
