"""The image tower of a CLIP, through names that open_clip 2.24 to current and OpenAI's own code share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cdam_fast.arguments import FLOATING
from cdam_fast.compat import refusal_of_dtype
from cdam_fast.models.blocks import Block
from cdam_fast.models.open_clip_block import OpenCLIPBlock
from cdam_fast.models.wrapped import unwrap

ResizePositions = Callable[[Tensor, tuple[int, int]], Tensor]
"""``[1, width, g_h, g_w]`` trained position embedding -> ``[1, width, h, w]``."""

_STABLE = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
_OF_A_BLOCK = ("attn", "ln_1", "mlp", "ln_2")
_TAKES = "takes a CLIP of open_clip or of OpenAI's clip with a ViT image tower that has a CLS token"


class Tower:
    """A checked view of a model's image tower; holds no weights of its own and changes none.

    Args:
        model: an open_clip ``CLIP`` or ``CustomTextCLIP`` whose image tower is open_clip's own ViT with a CLS token, a
            model of OpenAI's ``clip.load``, or one of a fork of either; also inside torch.compile, DataParallel,
            DistributedDataParallel, FSDP of one process or a PEFT model.

    Raises:
        TypeError: no such model, TorchScript included. ValueError: an image tower without a CLS token (ResNet, timm,
            EVA), with attentional pooling (CoCa), with another attention than ``nn.MultiheadAttention``, or whose
            weights are divided over processes.
    """

    visual: Any
    """The image tower itself."""
    blocks: Sequence[Block]
    """Its transformer blocks, first to last."""
    patch: tuple[int, int]
    """Height and width of a patch in pixels."""
    trained_grid: tuple[int, int]
    """Rows and columns of the position embedding."""
    embedding_size: int
    """Length of the features that image and text share."""
    has_cls: bool
    """Whether a CLS token stands before the patches."""

    def __init__(self, model: object) -> None:
        self.visual = _checked_tower(unwrap(model))
        self.blocks = _blocks(self.visual)
        self.patch = tuple(self.visual.conv1.kernel_size)
        self.trained_grid = _trained_grid(self.visual)
        self.embedding_size = int(self.visual.proj.shape[1])
        self.has_cls = True

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
        _restore_casting_norms(other.visual, other.dtype)
        other.blocks = _blocks(other.visual)
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

    def project_features(self, x: Tensor) -> Tensor:
        """The norm after the last block and the projection to the shared space, ``[B, L, width] -> [B, L, D]``."""
        features: Tensor = self.visual.ln_post(x) @ self.visual.proj
        return features

    def _positions(self, grid: tuple[int, int], resize: ResizePositions) -> Tensor:
        positions: Tensor = self.visual.positional_embedding
        if grid == self.trained_grid:
            return positions
        cls_token, patches = positions[:1], positions[1:]
        if patches.dtype in (torch.float16, torch.bfloat16):
            patches = patches.float()
        resized = resize(patches.mT.reshape(1, -1, *self.trained_grid), grid)
        return torch.cat((cls_token.to(patches.dtype), resized[0].flatten(1).mT))


def _checked_tower(model: object) -> Any:
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model: got TorchScript, {_TAKES}, in Python (clip.load(..., jit=False))")
    if type(model).__module__.split(".")[0] == "transformers":
        raise TypeError(f"model: got {name} of transformers, {_TAKES}; open_clip.create_model has the same weights")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {name}, {_TAKES}")
    visual: Any = unwrap(getattr(model, "visual", None))
    is_module = isinstance(visual, nn.Module)
    if not is_module:
        raise TypeError(f"model: got {name} without an image tower, {_TAKES}")
    missing = [part for part in _STABLE if getattr(visual, part, None) is None]
    if missing:
        raise ValueError(f"model: got the image tower {type(visual).__name__} without {missing[0]}, {_TAKES}")
    if getattr(visual, "attn_pool", None) is not None:
        raise ValueError(f"model: got an image tower with attentional pooling, {_TAKES} and no such pooling")
    if not hasattr(visual.conv1, "kernel_size") or not hasattr(visual.transformer, "resblocks"):
        kind = type(visual.conv1).__name__ + ", " + type(visual.transformer).__name__
        raise ValueError(f"model: got an image tower of {kind}, {_TAKES}: a convolution, then resblocks")
    weight = visual.conv1.weight
    if weight.dim() != 4 or hasattr(weight, "full_tensor"):
        raise ValueError("model: got weights that are divided over processes, takes whole ones on one device")
    return visual


def _check_block(block: Any) -> None:
    missing = [part for part in _OF_A_BLOCK if getattr(block, part, None) is None]
    if missing:
        raise ValueError(f"model: got blocks of type {type(block).__name__} without {missing[0]}, {_TAKES}")
    if not isinstance(block.attn, nn.MultiheadAttention):
        kind = type(block.attn).__name__
        hint = "; merge the adapters into the weights first" if hasattr(block.attn, "base_layer") else ""
        raise ValueError(f"model: got attention of type {kind}, takes PyTorch's nn.MultiheadAttention{hint}")
    if block.attn.in_proj_weight is None or block.attn.in_proj_bias is None:
        raise ValueError("model: got attention without a joint projection and its bias, which CLIP's has")


def _blocks(visual: Any) -> list[OpenCLIPBlock]:
    blocks = [unwrap(block) for block in visual.transformer.resblocks]
    for block in blocks:
        _check_block(block)
    return [OpenCLIPBlock(block) for block in blocks]


def _trained_grid(visual: Any) -> tuple[int, int]:
    """OpenAI's towers are square and do not say so."""
    patches = len(visual.positional_embedding) - 1
    side = math.isqrt(max(patches, 0))
    rows, columns = getattr(visual, "grid_size", None) or (side, side)
    if rows * columns != patches:
        raise ValueError(
            f"model: got {patches + 1} position embeddings, takes one for the CLS token and one for each patch of "
            f"{rows}x{columns}"
        )
    return int(rows), int(columns)


def _restore_casting_norms(visual: nn.Module, dtype: torch.dtype) -> None:
    """CLIP's layer norms for half precision compute in float32 whatever they get, and need float32 weights."""
    for module in visual.modules():
        if isinstance(module, nn.LayerNorm) and type(module) is not nn.LayerNorm:
            try:
                module(torch.zeros(module.normalized_shape, dtype=dtype, device=module.weight.device))
            except RuntimeError:
                module.float()
