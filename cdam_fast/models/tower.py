"""The image tower of a CLIP: its pixels, its tokens and its blocks, behind one class for all kinds of models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cdam_fast.arguments import FLOATING
from cdam_fast.compat import refusal_of_dtype
from cdam_fast.models.autocast import AutocastBlock
from cdam_fast.models.blocks import Block
from cdam_fast.models.towers.image_tower import TAKES, ImageTower
from cdam_fast.models.towers.of_open_clip import OpenCLIPTower
from cdam_fast.models.towers.of_timm import TimmTower
from cdam_fast.models.towers.of_transformers import open_transformers
from cdam_fast.models.wrapped import is_of_transformers, unwrap

ResizePositions = Callable[[Tensor, tuple[int, int]], Tensor]
"""``[1, width, g_h, g_w]`` trained position embedding -> ``[1, width, h, w]``."""


class Tower:
    """A checked view of a model's image tower; holds no weights of its own and changes none.

    Args:
        model: one of these, also inside torch.compile, DataParallel, DistributedDataParallel, FSDP of one process or a
            PEFT model:

            - an open_clip ``CLIP`` or ``CustomTextCLIP`` whose image tower is open_clip's own ViT, a model of OpenAI's
              ``clip.load``, or one of a fork of either;
            - an open_clip model whose image tower is timm's ``VisionTransformer``, with or without a CLS token, as
              SigLIP and SigLIP 2 have it;
            - ``CLIPModel``, ``SiglipModel`` (SigLIP 2 of a fixed size too) or the image tower alone,
              ``CLIPVisionModelWithProjection`` or ``SiglipVisionModel``, of transformers.

    SigLIP pools the patches by an attention with one learnt query. A patch's own feature is what that pooling gives of
    the patch alone, MaskCLIP's rule for attention pooling: the value and output projections, then the pooling's MLP.

    Raises:
        TypeError: no such model, TorchScript included. ValueError: another image tower (ResNet, ConvNeXt, EVA, hybrid),
            register tokens, attentional pooling of open_clip's own ViT (CoCa), another attention than the usual, an
            image tower of transformers without the projection to the shared space, weights that are divided over
            processes.
    """

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
        self._read(_open(unwrap(model)))

    def _read(self, parts: ImageTower) -> None:
        self._parts = parts
        self.blocks = parts.blocks
        self.patch = tuple(parts.convolution.kernel_size)
        self.trained_grid = parts.trained_grid
        self.embedding_size = parts.embedding_size
        self.has_cls = parts.cls_token is not None

    @property
    def visual(self) -> Any:
        """The module that has the weights."""
        return self._parts.visual

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self._parts.convolution.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        device: torch.device = self._parts.convolution.weight.device
        return device

    def statistics(self, name: str) -> Sequence[float]:
        """``image_mean`` or ``image_std`` of red, green and blue in [0, 1]: the model's own, or those of its kind."""
        return self._parts.statistics(name)

    def to(self, dtype: torch.dtype | None, device: torch.device | str | None) -> Tower:
        """Itself, or a tower on a copy of the weights where dtype or device differ; None is as it is."""
        if dtype is not None and (not isinstance(dtype, torch.dtype) or dtype not in FLOATING):
            raise TypeError(f"dtype: got {dtype!r}, takes None or one of float16, bfloat16, float32, float64")
        target = self.device if device is None else torch.empty(0, device=device).device
        if reason := refusal_of_dtype(dtype or self.dtype, target.type):
            raise ValueError(f"dtype: {reason}")
        if target == self.device and dtype in (None, self.dtype):
            return self
        visual = copy.deepcopy(self.visual).to(target, dtype)
        other = copy.copy(self)
        other._read(type(self._parts)(visual))
        _restore_casting_norms(visual, other.dtype)
        return other

    def autocast(self) -> Tower:
        """A tower on the same weights whose blocks before the last are in half precision; see `AutocastBlock`.

        The last one is what the base methods and the map are about, and stays as it is.

        Raises:
            ValueError: weights in another dtype than float32.
        """
        if self.dtype != torch.float32:
            raise ValueError(f"amp: got True for a model in {self.dtype}, takes one in torch.float32")
        other = copy.copy(self)
        other.blocks = [*map(AutocastBlock, self.blocks[:-1]), self.blocks[-1]]
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
        """Tokens before the first block: ``[B, 3, H, W] -> [B, N+1, width]``, CLS first; ``[B, N, width]`` without.

        In training mode too: patch dropout is left out, a dense result needs every patch.
        """
        x = self._parts.embed_patches(pixels)
        cls_token = self._parts.cls_token
        if cls_token is not None:
            x = torch.cat((cls_token.to(x.dtype).expand(len(x), 1, -1), x), 1)
        return self._parts.before_blocks(x + self._positions(self.grid(pixels), resize).to(x.dtype))

    def project_features(self, x: Tensor) -> Tensor:
        """Tokens after the last block to the shared space, each by itself, ``[B, L, width] -> [B, L, D]``."""
        return self._parts.project_features(x)

    def _positions(self, grid: tuple[int, int], resize: ResizePositions) -> Tensor:
        positions = self._parts.positions
        if grid == self.trained_grid:
            return positions
        first_patch = int(self.has_cls)
        cls_token, patches = positions[:first_patch], positions[first_patch:]
        if patches.dtype in (torch.float16, torch.bfloat16):
            patches = patches.float()
        resized = resize(patches.mT.reshape(1, -1, *self.trained_grid), grid)
        return torch.cat((cls_token.to(patches.dtype), resized[0].flatten(1).mT))


def _open(model: object) -> ImageTower:
    """The image tower of a model, by its kind."""
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model: got TorchScript, {TAKES}, in Python (clip.load(..., jit=False))")
    if is_of_transformers(model):
        return open_transformers(model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {name}, {TAKES}")
    visual: Any = unwrap(getattr(model, "visual", None))
    is_module = isinstance(visual, nn.Module)
    if not is_module:
        raise TypeError(f"model: got {name} without an image tower, {TAKES}")
    return TimmTower(visual) if hasattr(visual, "trunk") else OpenCLIPTower(visual)


def _restore_casting_norms(visual: nn.Module, dtype: torch.dtype) -> None:
    """CLIP's layer norms for half precision compute in float32 whatever they get, and need float32 weights."""
    for module in visual.modules():
        if isinstance(module, nn.LayerNorm) and type(module) is not nn.LayerNorm:
            try:
                module(torch.zeros(module.normalized_shape, dtype=dtype, device=module.weight.device))
            except RuntimeError:
                module.float()
