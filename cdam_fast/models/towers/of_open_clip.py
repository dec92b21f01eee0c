"""The image tower of open_clip's own ViT and of OpenAI's, through names that open_clip 2.24 to current share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from cdam_fast.models.blocks import Block
from cdam_fast.models.towers.image_tower import TAKES, ImageTower, check_convolution, check_parts
from cdam_fast.models.wrapped import unwrap

_STABLE = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post", "proj")
_OF_A_BLOCK = ("attn", "ln_1", "mlp", "ln_2")


class OpenCLIPTower(ImageTower):
    """A ``VisionTransformer`` of open_clip or OpenAI's clip, or of a fork of either."""

    def __init__(self, visual: Any) -> None:
        check_parts(visual, _STABLE, "the image tower")
        if getattr(visual, "attn_pool", None) is not None:
            raise ValueError(f"model: got an image tower with attentional pooling, {TAKES} and no such pooling")
        if not hasattr(visual.conv1, "kernel_size") or not hasattr(visual.transformer, "resblocks"):
            kind = type(visual.conv1).__name__ + ", " + type(visual.transformer).__name__
            raise ValueError(f"model: got an image tower of {kind}, {TAKES}: a convolution, then resblocks")
        check_convolution(visual.conv1)
        self.visual = visual
        self.blocks = [OpenCLIPBlock(unwrap(block)) for block in visual.transformer.resblocks]
        self.trained_grid = self.read_grid(getattr(visual, "grid_size", None))  # OpenAI's do not say it
        self.embedding_size = int(visual.proj.shape[1])

    @property
    def convolution(self) -> Any:
        """``conv1``."""
        return self.visual.conv1

    @property
    def cls_token(self) -> Tensor:
        """``class_embedding``."""
        token: Tensor = self.visual.class_embedding
        return token

    @property
    def positions(self) -> Tensor:
        """``positional_embedding``."""
        positions: Tensor = self.visual.positional_embedding
        return positions

    def before_blocks(self, x: Tensor) -> Tensor:
        """``ln_pre``."""
        tokens: Tensor = self.visual.ln_pre(x)
        return tokens

    def project_features(self, x: Tensor) -> Tensor:
        """``ln_post`` and ``proj``."""
        features: Tensor = self.visual.ln_post(x) @ self.visual.proj
        return features


class OpenCLIPBlock(Block):
    """A residual attention block: ``ln_1``, ``attn`` of `torch.nn.MultiheadAttention`, ``ln_2``, ``mlp``."""

    def __init__(self, module: Any) -> None:
        check_parts(module, _OF_A_BLOCK, "blocks of type")
        attention = module.attn
        if not isinstance(attention, nn.MultiheadAttention):
            hint = "; merge the adapters into the weights first" if hasattr(attention, "base_layer") else ""
            kind = type(attention).__name__
            raise ValueError(f"model: got attention of type {kind}, takes PyTorch's nn.MultiheadAttention{hint}")
        if attention.in_proj_weight is None or attention.in_proj_bias is None:
            raise ValueError("model: got attention without a joint projection and its bias, which CLIP's has")
        self.module = module
        self.heads = int(module.attn.num_heads)

    def run(self, x: Tensor) -> Tensor:
        """The whole block; older open_clip puts the tokens first."""
        tokens_first = not self.module.attn.batch_first
        result: Tensor = self.module(x.transpose(0, 1)).transpose(0, 1) if tokens_first else self.module(x)
        return result

    def normalise(self, x: Tensor) -> Tensor:
        """``ln_1``."""
        normalised: Tensor = self.module.ln_1(x)
        return normalised

    def project(self, tokens: Tensor, part: str) -> Tensor:
        """Its third of ``in_proj``."""
        start = "qkv".index(part) * tokens.shape[-1]
        rows = slice(start, start + tokens.shape[-1])
        attention = self.module.attn
        return functional.linear(tokens, attention.in_proj_weight[rows], attention.in_proj_bias[rows])

    def output(self, attended: Tensor) -> Tensor:
        """``out_proj`` and ``ls_1``."""
        return self._scaled("ls_1", self.module.attn.out_proj(attended))

    def add_mlp(self, x: Tensor) -> Tensor:
        """``ln_2``, ``mlp`` and ``ls_2``."""
        return x + self._scaled("ls_2", self.module.mlp(self.module.ln_2(x)))

    def _scaled(self, name: str, x: Tensor) -> Tensor:
        """Layer scale, which OpenAI's blocks do not have."""
        scale = getattr(self.module, name, None)
        scaled: Tensor = x if scale is None else scale(x)
        return scaled
