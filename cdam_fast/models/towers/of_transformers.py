"""The image towers of transformers' CLIP and SigLIP, through names that transformers 4.30 to 5 share."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from cdam_fast.models.blocks import Block
from cdam_fast.models.towers.image_tower import TAKES, ImageTower, check_convolution, check_parts
from cdam_fast.models.wrapped import unwrap

_OF_A_BLOCK = ("self_attn", "layer_norm1", "layer_norm2", "mlp")
_OF_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads")
_MASKS = ("attention_mask", "causal_attention_mask")


def open_transformers(model: Any) -> ImageTower:
    """The image tower of a model of transformers.

    Raises:
        TypeError: another kind of model, or one without an image tower. ValueError: one without the projection, or
            the pooling, to the space that image and text share.
    """
    name = f"{type(model).__name__} of transformers"
    kind = str(getattr(getattr(model, "config", None), "model_type", "")).replace("_vision_model", "")
    vision: Any = unwrap(getattr(model, "vision_model", model))
    if kind not in ("clip", "siglip"):
        raise TypeError(f"model: got {name}, {TAKES}")
    if not hasattr(vision, "embeddings") or not hasattr(vision, "post_layernorm"):
        raise TypeError(f"model: got {name} without an image tower, {TAKES}")
    if kind == "siglip":
        return SigLIPTower(vision)
    projection = getattr(model, "visual_projection", None)
    if projection is None:
        raise ValueError(f"model: got {name} without visual_projection to the space of the text, {TAKES}")
    both = nn.ModuleDict({"vision_model": vision, "visual_projection": projection})
    both.training = model.training
    return CLIPTower(both)


class _TransformersTower(ImageTower):
    """What CLIP's and SigLIP's share: ``embeddings``, ``encoder.layers``, ``post_layernorm``."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        check_parts(self._vision, ("embeddings", "encoder", "post_layernorm"), "the image tower")
        check_parts(self._embeddings, ("patch_embedding", "position_embedding"), "the embeddings")
        check_convolution(self.convolution)
        self.blocks = [TransformersBlock(unwrap(layer)) for layer in self._vision.encoder.layers]
        self.trained_grid = self.read_grid(None)

    @property
    def _vision(self) -> Any:
        return self.visual

    @property
    def _embeddings(self) -> Any:
        return self._vision.embeddings

    @property
    def convolution(self) -> Any:
        """``patch_embedding``."""
        return self._embeddings.patch_embedding

    @property
    def cls_token(self) -> Tensor | None:
        """``class_embedding``."""
        token: Tensor | None = getattr(self._embeddings, "class_embedding", None)
        return token

    @property
    def positions(self) -> Tensor:
        """``position_embedding``."""
        positions: Tensor = self._embeddings.position_embedding.weight
        return positions


class CLIPTower(_TransformersTower):
    """``vision_model`` and ``visual_projection`` of a ``CLIPModel``."""

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        check_parts(self._vision, ("pre_layrnorm",), "the image tower")
        check_parts(self._embeddings, ("class_embedding",), "the embeddings")
        self.embedding_size = int(visual["visual_projection"].weight.shape[0])

    @property
    def _vision(self) -> Any:
        return self.visual["vision_model"]

    def before_blocks(self, x: Tensor) -> Tensor:
        """``pre_layrnorm``, as it is spelt there."""
        tokens: Tensor = self._vision.pre_layrnorm(x)
        return tokens

    def project_features(self, x: Tensor) -> Tensor:
        """``post_layernorm`` and ``visual_projection``."""
        features: Tensor = self.visual["visual_projection"](self._vision.post_layernorm(x))
        return features


class SigLIPTower(_TransformersTower):
    """``vision_model`` of a ``SiglipModel``, with its pooling."""

    def __init__(self, visual: Any) -> None:
        super().__init__(visual)
        check_parts(visual, ("head",), "the image tower")
        check_parts(visual.head, ("attention", "layernorm", "mlp"), "the pooling")
        if not isinstance(visual.head.attention, nn.MultiheadAttention):
            kind = type(visual.head.attention).__name__
            raise ValueError(
                f"model: got a pooling with attention of type {kind}, takes PyTorch's nn.MultiheadAttention"
            )
        self.embedding_size = int(visual.head.attention.embed_dim)

    def before_blocks(self, x: Tensor) -> Tensor:
        """Nothing."""
        return x

    def project_features(self, x: Tensor) -> Tensor:
        """``post_layernorm``, and what the pooling gives of a token by itself: its value, as one key's weight is 1."""
        head, width = self.visual.head, self.embedding_size
        weight, bias = head.attention.in_proj_weight, head.attention.in_proj_bias
        x = functional.linear(self.visual.post_layernorm(x), weight[2 * width :], bias[2 * width :])
        x = head.attention.out_proj(x)
        features: Tensor = x + head.mlp(head.layernorm(x))
        return features

    def statistics(self, name: str) -> Sequence[float]:
        """0.5 for all, as SigLIP was trained."""
        own: Sequence[float] | None = getattr(self.visual, name, None)
        return own or (0.5, 0.5, 0.5)


class TransformersBlock(Block):
    """An encoder layer: ``layer_norm1``, ``self_attn`` with four projections, ``layer_norm2``, ``mlp``."""

    def __init__(self, module: Any) -> None:
        check_parts(module, _OF_A_BLOCK, "blocks of type")
        check_parts(module.self_attn, _OF_ATTENTION, "attention of type")
        self.module = module
        self.heads = int(module.self_attn.num_heads)
        known = inspect.signature(module.forward).parameters
        self._masks = dict.fromkeys(name for name in _MASKS if name in known)

    def run(self, x: Tensor) -> Tensor:
        """The whole layer; before transformers 5 it takes more masks, and gives a tuple."""
        result = self.module(x, **self._masks)
        hidden: Tensor = result[0] if isinstance(result, tuple) else result
        return hidden

    def normalise(self, x: Tensor) -> Tensor:
        """``layer_norm1``."""
        normalised: Tensor = self.module.layer_norm1(x)
        return normalised

    def project(self, tokens: Tensor, part: str) -> Tensor:
        """``q_proj``, ``k_proj`` or ``v_proj``."""
        projected: Tensor = getattr(self.module.self_attn, f"{part}_proj")(tokens)
        return projected

    def output(self, attended: Tensor) -> Tensor:
        """``out_proj``."""
        output: Tensor = self.module.self_attn.out_proj(attended)
        return output

    def add_mlp(self, x: Tensor) -> Tensor:
        """``layer_norm2`` and ``mlp``."""
        added: Tensor = x + self.module.mlp(self.module.layer_norm2(x))
        return added
