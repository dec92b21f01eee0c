"""The image tower of an open_clip CLIP, through names that open_clip 2.24 to current share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdam_fast.arguments import FLOATING
from cdam_fast.compat import refusal_of_dtype

ResizePositions = Callable[[Tensor, tuple[int, int]], Tensor]
"""``[1, width, g_h, g_w]`` trained position embedding -> ``[1, width, h, w]``."""

_STABLE = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")


class Tower:
    """A checked view of a model's image tower; holds no weights of its own and changes none.

    Args:
        model: an open_clip ``CLIP`` or ``CustomTextCLIP`` whose image tower is open_clip's own ViT with a CLS token.

    Raises:
        TypeError: no model of open_clip. ValueError: an image tower without a CLS token (ResNet, timm, EVA), with
            attentional pooling (CoCa) or with another attention than ``nn.MultiheadAttention``.
    """

    visual: Any
    """The image tower itself."""
    blocks: Any
    """Its transformer blocks, a sequence of modules."""
    patch: tuple[int, int]
    """Height and width of a patch in pixels."""
    trained_grid: tuple[int, int]
    """Rows and columns of the position embedding."""
    embedding_size: int
    """Length of the features that image and text share."""

    def __init__(self, model: object) -> None:
        takes = "takes an open_clip CLIP with a ViT image tower that has a CLS token"
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: got {type(model).__name__}, {takes}")
        visual: Any = getattr(model, "visual", None)
        if not isinstance(visual, nn.Module):
            raise TypeError(f"model: got {type(model).__name__} without an image tower, {takes}")
        missing = [name for name in _STABLE if getattr(visual, name, None) is None]
        if missing:
            raise ValueError(f"model: got the image tower {type(visual).__name__} without {missing[0]}, {takes}")
        if getattr(visual, "attn_pool", None) is not None:
            raise ValueError(f"model: got an image tower with attentional pooling, {takes} and no such pooling")
        self.visual = visual
        self.blocks = self.visual.transformer.resblocks
        for block in self.blocks:
            if not isinstance(block.attn, nn.MultiheadAttention):
                raise ValueError(f"model: got attention of type {type(block.attn).__name__}, takes MultiheadAttention")
        self.patch = tuple(self.visual.conv1.kernel_size)
        self.trained_grid = tuple(self.visual.grid_size)
        self.embedding_size = int(self.visual.proj.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self.visual.conv1.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        device: torch.device = self.visual.conv1.weight.device
        return device

    def to(self, dtype: torch.dtype | None, device: torch.device | str | None) -> Tower:
        """Itself, or a tower on a copy of the weights where dtype or device differ; None is as it is."""
        if dtype is not None and (not isinstance(dtype, torch.dtype) or dtype not in FLOATING):
            raise TypeError(f"dtype: got {dtype!r}, takes None or one of float16, bfloat16, float32, float64")
        target = self.device if device is None else torch.empty(0, device=device).device
        if reason := refusal_of_dtype(dtype or self.dtype, target.type):
            raise ValueError(f"dtype: {reason}")
        if target == self.device and dtype in (None, self.dtype):
            return self
        other = copy.copy(self)
        other.visual = copy.deepcopy(self.visual).to(target, dtype)
        other.blocks = other.visual.transformer.resblocks
        return other

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of checked pixels."""
        return pixels.shape[-2] // self.patch[0], pixels.shape[-1] // self.patch[1]

    def check_pixels(self, pixels: object) -> Tensor:
        """``[B, 3, H, W]``, floating, whole patches, the model's device; in the model's dtype."""
        shape = "[B, 3, H, W]"
        if not isinstance(pixels, Tensor):
            raise TypeError(f"pixels: got {type(pixels).__name__}, takes a torch.Tensor of shape {shape}")
        if pixels.dtype not in FLOATING:
            raise TypeError(f"pixels: got dtype {pixels.dtype}, takes floating point, normalised for the model")
        if pixels.dim() != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
            raise ValueError(f"pixels: got shape {tuple(pixels.shape)}, takes {shape} with B, H, W >= 1")
        height, width = self.patch
        if pixels.shape[-2] % height or pixels.shape[-1] % width:
            raise ValueError(
                f"pixels: got {pixels.shape[-2]}x{pixels.shape[-1]}, takes sides that are multiples of the patch, "
                f"{height}x{width}"
            )
        if pixels.device != self.device:
            raise ValueError(f"pixels: got device {pixels.device}, takes that of the model, {self.device}")
        if reason := refusal_of_dtype(self.dtype, self.device.type):
            raise ValueError(f"model: {reason}")
        return pixels.to(self.dtype)

    def embed(self, pixels: Tensor, resize: ResizePositions) -> Tensor:
        """Tokens before the first block, CLS first: ``[B, 3, H, W] -> [B, N+1, width]``.

        In training mode too: patch dropout is left out, a dense result needs every patch.
        """
        visual = self.visual
        x = visual.conv1(pixels).flatten(2).mT
        x = torch.cat((visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x), 1)
        x = x + self._positions(self.grid(pixels), resize).to(x.dtype)
        tokens: Tensor = visual.ln_pre(x)
        return tokens

    def _positions(self, grid: tuple[int, int], resize: ResizePositions) -> Tensor:
        positions: Tensor = self.visual.positional_embedding
        if grid == self.trained_grid:
            return positions
        cls_token, patches = positions[:1], positions[1:]
        if patches.dtype in (torch.float16, torch.bfloat16):
            patches = patches.float()
        resized = resize(patches.mT.reshape(1, -1, *self.trained_grid), grid)
        return torch.cat((cls_token.to(patches.dtype), resized[0].flatten(1).mT))


def run_block(block: Any, x: Tensor) -> Tensor:
    """One unchanged block, ``[B, L, width] -> [B, L, width]``; older open_clip puts the tokens first."""
    result: Tensor = block(x) if block.attn.batch_first else block(x.transpose(0, 1)).transpose(0, 1)
    return result


def project(block: Any, tokens: Tensor, part: str) -> Tensor:
    """Query, key or value projection of normalised tokens, ``[B, L, width] -> [B, L, width]``; part: q, k or v."""
    start = "qkv".index(part) * tokens.shape[-1]
    rows = slice(start, start + tokens.shape[-1])
    return functional.linear(tokens, block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows])


def split_heads(block: Any, x: Tensor) -> Tensor:
    """``[B, L, width] -> [B, heads, L, width / heads]``."""
    return x.reshape(*x.shape[:2], block.attn.num_heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """``[B, heads, L, d] -> [B, L, heads * d]``."""
    return x.transpose(1, 2).flatten(2)


def attention_output(block: Any, attended: Tensor) -> Tensor:
    """Output projection and layer scale, ``[B, L, width] -> [B, L, width]``."""
    output: Tensor = block.ls_1(block.attn.out_proj(attended))
    return output


def add_mlp(block: Any, x: Tensor) -> Tensor:
    """The MLP with its residual, ``[B, L, width] -> [B, L, width]``."""
    output: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return output
