"""Models inside the wrappers of training and compilation."""

from __future__ import annotations

from typing import Any

from torch import nn

_INSIDE = ("_orig_mod", "module", "_fsdp_wrapped_module")
"""Where torch.compile, (Distributed)DataParallel, averaged weights and FSDP keep the module that they wrap."""


def unwrap(model: Any) -> Any:
    """The module inside torch.compile, DataParallel, DistributedDataParallel, FSDP or PEFT; anything else as it is."""
    while isinstance(model, nn.Module):
        children = model._modules
        inside: Any = next((children[name] for name in _INSIDE if name in children), None)
        base: Any = getattr(type(model), "get_base_model", None)
        if base is not None:
            inside = base(model)
        if inside is None or inside is model:
            break
        model = inside
    return model


def is_of_transformers(thing: object) -> bool:
    """Whether this is a model, tokenizer or processor of transformers, or of a class made from one of theirs."""
    return any(kind.__module__.split(".")[0] == "transformers" for kind in type(thing).__mro__)
