"""What is asked of the image tower of a model, whatever kind it is of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cdam_fast.models.blocks import Block

TAKES = (
    "takes a CLIP of open_clip or of OpenAI's clip with a ViT image tower, or a CLIPModel, "
    "CLIPVisionModelWithProjection, SiglipModel or SiglipVisionModel of transformers"
)


class ImageTower(ABC):
    """A checked view of the modules of one kind of ViT; holds no weights of its own.

    Args:
        visual: the module that has all of its weights.

    Raises:
        ValueError: a module that is none of this kind, by the part that is missing or different.
    """

    visual: Any
    blocks: Sequence[Block]
    """First to last."""
    trained_grid: tuple[int, int]
    """Rows and columns of the position embedding."""
    embedding_size: int
    """D, the length of the features that image and text share."""

    @abstractmethod
    def __init__(self, visual: Any) -> None: ...

    @property
    @abstractmethod
    def convolution(self) -> Any:
        """The patch embedding, a `torch.nn.Conv2d` whose stride is its kernel's size."""

    @property
    @abstractmethod
    def cls_token(self) -> Tensor | None:
        """``[width]``, or None."""

    @property
    @abstractmethod
    def positions(self) -> Tensor:
        """``[N+1, width]`` trained position embedding, the CLS token's first; ``[N, width]`` without a CLS token."""

    @abstractmethod
    def before_blocks(self, x: Tensor) -> Tensor:
        """What is done to the tokens between the position embedding and the first block, such as a norm."""

    @abstractmethod
    def project_features(self, x: Tensor) -> Tensor:
        """Tokens after the last block to the shared space, each by itself, ``[B, L, width] -> [B, L, D]``."""

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """``[B, 3, H, W] -> [B, N, width]``, row by row."""
        patches: Tensor = self.convolution(pixels).flatten(2).mT
        return patches

    def statistics(self, name: str) -> Sequence[float]:
        """``image_mean`` or ``image_std`` of the pixels that the model was trained on, if it says so; or CLIP's."""
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

        own: Sequence[float] | None = getattr(self.visual, name, None)
        return own or (OPENAI_DATASET_MEAN if name == "image_mean" else OPENAI_DATASET_STD)

    def read_grid(self, stated: tuple[int, int] | None) -> tuple[int, int]:
        """Rows and columns of the position embedding: as stated, which must fit, or a square."""
        count = len(self.positions)
        patches = count if self.cls_token is None else count - 1
        side = math.isqrt(max(patches, 0))
        rows, columns = stated or (side, side)
        if rows * columns != patches:
            cls_token = "" if self.cls_token is None else "one for the CLS token and "
            raise ValueError(
                f"model: got {count} position embeddings, takes {cls_token}one for each patch of {rows}x{columns}"
            )
        return int(rows), int(columns)


def check_convolution(convolution: Any) -> None:
    """Patches that lie side by side, with weights that are whole."""
    weight = convolution.weight
    if weight.dim() != 4 or hasattr(weight, "full_tensor"):
        raise ValueError("model: got weights that are divided over processes, takes whole ones on one device")
    padded = convolution.padding not in ("valid", (0, 0))
    if padded or tuple(convolution.stride) != tuple(convolution.kernel_size):
        raise ValueError(f"model: got patches that overlap or are padded, {convolution}, {TAKES}")


def check_parts(module: Any, parts: Sequence[str], what: str) -> None:
    """That the module has all the parts, none of them None; what: the module, in words."""
    missing = [part for part in parts if getattr(module, part, None) is None]
    if missing:
        raise ValueError(f"model: got {what} {type(module).__name__} without {missing[0]}, {TAKES}")
