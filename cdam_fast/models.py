"""Dense features of an unmodified open_clip CLIP (any ViT with a CLS token), through stable names only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_PROMPTS_AT_ONCE = 64


def text_features(
    model: nn.Module,
    tokenizer: Callable[[list[str]], Tensor],
    prompts: Sequence[str],
    *,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """L2-normalised text features, ``[P, D]``, of P prompts; on_progress hears how many are done.

    The text tower is causal and read at the end-of-text token, so tokens past the longest prompt change nothing:
    they are left out, five times faster for class names.
    """
    tokens = tokenizer(list(prompts))
    length = int(tokens.argmax(-1).max()) + 1
    state: dict[str, Tensor] = {
        "positional_embedding": model.get_parameter("positional_embedding")[:length],
        "attn_mask": model.get_buffer("attn_mask")[:length, :length],
    }
    device = state["positional_embedding"].device
    features = []
    with torch.inference_mode():
        for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
            batch = tokens[start : start + _PROMPTS_AT_ONCE, :length].to(device)
            output = torch.func.functional_call(model, state, kwargs={"text": batch})
            features.append(output["text_features"] if isinstance(output, dict) else output[1])
            on_progress(min(start + _PROMPTS_AT_ONCE, len(prompts)))
    return functional.normalize(torch.cat(features).float(), dim=-1)


def maskclip_features(model: Any, pixels: Tensor) -> Tensor:
    """L2-normalised patch features of MaskCLIP, ``[B, 3, H, W] -> [B, N, D]``, pixels normalised for the model.

    The last block's attention is the identity (``out_proj(v)``); its residual and MLP stay.
    """
    visual = model.visual
    block = visual.transformer.resblocks[-1]
    captured: list[Tensor] = []
    hook = block.register_forward_pre_hook(lambda module, inputs: captured.append(inputs[0]))
    try:
        with torch.inference_mode():
            model.encode_image(pixels)
    finally:
        hook.remove()
    with torch.inference_mode():
        x = captured[0] if block.attn.batch_first else captured[0].transpose(0, 1)
        width = x.shape[-1]
        weight, bias = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
        values = functional.linear(block.ln_1(x), weight, bias)
        x = x + block.ls_1(block.attn.out_proj(values))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        projected = visual.ln_post(x) @ visual.proj
        return functional.normalize(projected[:, 1:].float(), dim=-1)
