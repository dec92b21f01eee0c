"""The text towers: how each kind of model encodes tokens, and how many of them it can do without."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from cdam_fast.compat import functional_call
from cdam_fast.models.wrapped import is_of_transformers, unwrap

IMAGE_WEIGHTS = ("visual.", "vision_model.", "visual_projection.")
"""How the names of weights that the text tower does not use start."""

Encode = Callable[[Tensor], Tensor]
"""``[P, L]`` tokens -> ``[P, D]`` features, not normalised."""


class TextTower(ABC):
    """A view of a model's text tower."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @abstractmethod
    def encode(self, tokens: Tensor) -> Tensor:
        """The model's own features, ``[P, L] -> [P, D]``, not normalised."""

    @abstractmethod
    def length(self, tokens: Tensor) -> int:
        """How many of the L tokens can matter: up to the last end-of-text token, where the tower is causal."""

    @abstractmethod
    def shortened(self, length: int) -> Encode:
        """`encode` on this many of the tokens."""


def open_text_tower(model: object) -> TextTower:
    """The text tower of a model, which may be wrapped.

    Raises:
        TypeError: a model without one.
    """
    inside: Any = unwrap(model)
    name = type(inside).__name__
    if is_of_transformers(inside) and not hasattr(inside, "encode_text"):
        if not hasattr(inside, "get_text_features"):
            raise TypeError(f"model: got {name} of transformers without a text tower, takes one that has it")
        return TransformersText(inside)
    if not isinstance(inside, nn.Module) or not hasattr(inside, "encode_text"):
        raise TypeError(f"model: got {name}, takes a CLIP that has encode_text")
    return OpenCLIPText(inside)


class OpenCLIPText(TextTower):
    """``encode_text`` of open_clip's or OpenAI's model."""

    def encode(self, tokens: Tensor) -> Tensor:
        """``encode_text``."""
        features: Tensor = self.model.encode_text(tokens)
        return features

    def length(self, tokens: Tensor) -> int:
        """All, unless the model has its own causal tower, read where the token is largest."""
        own_tower = isinstance(getattr(self.model, "positional_embedding", None), Tensor)
        pooled_at_end = getattr(self.model, "text_pool_type", None) == "argmax"
        if own_tower and pooled_at_end and isinstance(getattr(self.model, "attn_mask", None), Tensor):
            return int(tokens.argmax(-1).max()) + 1
        return tokens.shape[1]

    def shortened(self, length: int) -> Encode:
        """With as many position embeddings, and as large a mask, as there are tokens."""
        state = {
            "model.positional_embedding": self.model.positional_embedding[:length],
            "model.attn_mask": self.model.attn_mask[:length, :length],
        }
        text = _Text(self.model)

        def encode(tokens: Tensor) -> Tensor:
            features: Tensor = functional_call(text, state, tokens=tokens[:, :length])
            return features

        return encode


class _Text(nn.Module):
    """encode_text as a forward, for functional_call."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(tokens)
        return features


class TransformersText(TextTower):
    """``get_text_features`` of a model of transformers, which is given no attention mask.

    CLIP's tower is causal and SigLIP's was trained to attend to the padding.
    """

    def encode(self, tokens: Tensor) -> Tensor:
        """``get_text_features``, which in transformers 5 gives more than the features."""
        result: Any = self.model.get_text_features(input_ids=tokens)
        features: Tensor = getattr(result, "pooler_output", result)
        return features

    def length(self, tokens: Tensor) -> int:
        """All, unless it is CLIP's: read at the first end-of-text token, or, by its older rule, the largest."""
        config = self.model.config
        if config.model_type != "clip":
            return tokens.shape[1]
        end = config.text_config.eos_token_id
        if end == 2:
            return int(tokens.argmax(-1).max()) + 1
        found = tokens == end
        return int(found.int().argmax(-1).max()) + 1 if bool(found.any(-1).all()) else tokens.shape[1]

    def shortened(self, length: int) -> Encode:
        """As it is: the tower takes any number of tokens."""
        return lambda tokens: self.encode(tokens[:, :length])
