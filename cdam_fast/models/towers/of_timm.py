"""The image tower of an open_clip model that is timm's ViT: SigLIP's, and others with or without a CLS token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cdam_fast.models.blocks import Block
from cdam_fast.models.towers.image_tower import TAKES, ImageTower, check_convolution, check_parts
from cdam_fast.models.wrapped import unwrap

_STABLE = ("patch_embed", "pos_embed", "blocks", "norm", "norm_pre", "fc_norm", "head")
_OF_A_BLOCK = ("norm1", "attn", "norm2", "mlp")
_OF_A_POOLING = ("kv", "proj", "norm")
_CHANGING_THE_ATTENTION = {
    "q_norm": "normalised queries",
    "k_norm": "normalised keys",
    "norm": "a norm before its output",
    "gate": "a gate",
}


class TimmTower(ImageTower):
    """open_clip's ``TimmModel`` around a ``VisionTransformer`` of timm."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        trunk = self._trunk
        kind = type(trunk).__name__
        if kind != "VisionTransformer":
            raise ValueError(f"model: got the image tower {kind} of timm, takes its VisionTransformer")
        check_parts(trunk, _STABLE, "the image tower")
        kind = type(trunk.patch_embed).__name__
        if kind != "PatchEmbed" or not isinstance(trunk.patch_embed.proj, nn.Conv2d):
            raise ValueError(f"model: got the patch embedding {kind} of timm, takes its PatchEmbed, one convolution")
        if getattr(trunk, "reg_token", None) is not None:
            raise ValueError(f"model: got an image tower of timm with register tokens, {TAKES}")
        check_convolution(trunk.patch_embed.proj)
        self._check_pooling()
        self.blocks = [TimmBlock(unwrap(block)) for block in trunk.blocks]
        self.trained_grid = self.read_grid(trunk.patch_embed.grid_size)
        self.embedding_size = self._embedding_size()

    @property
    def _trunk(self) -> Any:
        return unwrap(self.visual.trunk)

    def _check_pooling(self) -> None:
        """One that can be taken of a token alone."""
        trunk, of_open_clip = self._trunk, getattr(self.visual.head, "pool", None)
        pooling = trunk.global_pool if of_open_clip is None else type(of_open_clip).__name__
        if pooling not in ("map", "avg", "token"):
            raise ValueError(f"model: got the pooling {pooling!r} of timm, takes 'map', 'avg' or 'token'")
        if pooling == "map":
            check_parts(trunk.attn_pool, _OF_A_POOLING, "the pooling")
            if getattr(trunk.attn_pool, "pos_embed", None) is not None:
                raise ValueError("model: got a pooling with a position embedding of its own, takes one without")

    def _embedding_size(self) -> int:
        trunk = self._trunk
        for part in (self.visual.head, trunk.head):
            linear = [module for module in part.modules() if isinstance(module, nn.Linear)]
            if linear:
                return int(linear[-1].out_features)
        return int(trunk.embed_dim)

    @property
    def convolution(self) -> Any:
        """``patch_embed.proj``."""
        return self._trunk.patch_embed.proj

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """With the norm that some have after the convolution."""
        patches = super().embed_patches(pixels)
        normalised: Tensor = self._trunk.patch_embed.norm(patches)
        return normalised

    @property
    def cls_token(self) -> Tensor | None:
        """``cls_token``."""
        token: Tensor | None = getattr(self._trunk, "cls_token", None)
        return None if token is None else token[0, 0]

    @property
    def positions(self) -> Tensor:
        """``pos_embed``, which some have for the patches alone."""
        positions: Tensor = self._trunk.pos_embed[0]
        if self.cls_token is not None and self._trunk.no_embed_class:
            positions = torch.cat((torch.zeros_like(positions[:1]), positions))
        return positions

    def before_blocks(self, x: Tensor) -> Tensor:
        """``norm_pre``."""
        tokens: Tensor = self._trunk.norm_pre(x)
        return tokens

    def project_features(self, x: Tensor) -> Tensor:
        """The norm, the pooling of each token alone, and the heads of timm and of open_clip."""
        trunk = self._trunk
        x = trunk.norm(x)
        if trunk.global_pool == "map":
            x = _pooled_alone(trunk.attn_pool, x)
        features: Tensor = self.visual.head(trunk.head(trunk.fc_norm(x)))
        return features

    def statistics(self, name: str) -> Sequence[float]:
        """open_clip's, or timm's own, such as SigLIP's 0.5."""
        if getattr(self.visual, name, None) is None:
            of_timm: Sequence[float] | None = (getattr(self._trunk, "pretrained_cfg", None) or {}).get(name[6:])
            if of_timm:
                return of_timm
        return super().statistics(name)


def _pooled_alone(pooling: Any, x: Tensor) -> Tensor:
    """What attention pooling gives of a token by itself: its value, as a softmax over one key is 1."""
    x = pooling.proj(pooling.kv(x).chunk(2, -1)[1])
    return x if pooling.mlp is None else x + pooling.mlp(pooling.norm(x))


class TimmBlock(Block):
    """``norm1``, ``attn`` with a joint projection ``qkv``, ``ls1``; ``norm2``, ``mlp``, ``ls2``."""

    def __init__(self, module: Any) -> None:
        kinds = type(module).__name__, type(getattr(module, "attn", None)).__name__
        if kinds != ("Block", "Attention"):
            raise ValueError(f"model: got blocks {kinds[0]} with attention {kinds[1]} of timm, takes Block, Attention")
        check_parts(module, _OF_A_BLOCK, "blocks of type")
        attention = module.attn
        for name, words in _CHANGING_THE_ATTENTION.items():
            if not isinstance(getattr(attention, name, None), (nn.Identity, type(None))):
                raise ValueError(f"model: got attention of timm with {words}, takes plain attention")
        self.module = module
        self.heads = int(attention.num_heads)

    def run(self, x: Tensor) -> Tensor:
        """The whole block."""
        result: Tensor = self.module(x)
        return result

    def normalise(self, x: Tensor) -> Tensor:
        """``norm1``."""
        normalised: Tensor = self.module.norm1(x)
        return normalised

    def project(self, tokens: Tensor, part: str) -> Tensor:
        """Its third of ``qkv``."""
        projected: Tensor = self.module.attn.qkv(tokens).chunk(3, -1)["qkv".index(part)]
        return projected

    def output(self, attended: Tensor) -> Tensor:
        """``proj`` and ``ls1``."""
        return self._scaled("ls1", self.module.attn.proj(attended))

    def add_mlp(self, x: Tensor) -> Tensor:
        """``norm2``, ``mlp`` and ``ls2``."""
        return x + self._scaled("ls2", self.module.mlp(self.module.norm2(x)))

    def _scaled(self, name: str, x: Tensor) -> Tensor:
        """Layer scale, an identity in most."""
        scale = getattr(self.module, name, None)
        scaled: Tensor = x if scale is None else scale(x)
        return scaled
