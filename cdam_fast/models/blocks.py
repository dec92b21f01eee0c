"""What the base methods ask of a transformer block, whatever model it is of."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Block(ABC):
    """A pre-norm transformer block in its pieces: ``x + attention(norm(x))``, then ``x + mlp(norm(x))``.

    L is the number of tokens, width their length; everything is in the dtype of the weights.
    """

    heads: int
    """Of the attention; they divide the width."""

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """The whole unchanged block, ``[B, L, width] -> [B, L, width]``."""

    @abstractmethod
    def normalise(self, x: Tensor) -> Tensor:
        """The norm before the attention, ``[B, L, width] -> [B, L, width]``."""

    @abstractmethod
    def project(self, tokens: Tensor, part: str) -> Tensor:
        """Query, key or value of normalised tokens, ``[B, L, width] -> [B, L, width]``; part: q, k or v.

        Attention is ``softmax(q k^T / sqrt(width / heads)) v``, head by head.
        """

    def split_heads(self, x: Tensor) -> Tensor:
        """``[B, L, width] -> [B, heads, L, width / heads]``."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    @abstractmethod
    def output(self, attended: Tensor) -> Tensor:
        """Output projection and layer scale of attended values, ``[B, L, width] -> [B, L, width]``; no residual."""

    @abstractmethod
    def add_mlp(self, x: Tensor) -> Tensor:
        """The MLP of the normalised tokens, with its residual, ``[B, L, width] -> [B, L, width]``."""


def join_heads(x: Tensor) -> Tensor:
    """``[B, heads, L, d] -> [B, L, heads * d]``."""
    return x.transpose(1, 2).flatten(2)
