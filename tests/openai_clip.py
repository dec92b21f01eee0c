"""A CLIP of the structure of OpenAI's package, random weights: tokens first, layer norms that compute in float32."""

from collections import OrderedDict

import torch
from torch import nn


class CastingNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads, mask=None):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = CastingNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = CastingNorm(width)
        self.attn_mask = mask

    def forward(self, x):
        normed = self.ln_1(x)
        mask = None if self.attn_mask is None else self.attn_mask.to(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads, mask=None):
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.Sequential(*(Block(width, heads, mask) for _ in range(layers)))

    def forward(self, x):
        return self.resblocks(x)


class VisionTransformer(nn.Module):
    def __init__(self, resolution, patch, width, layers, heads, output):
        super().__init__()
        self.input_resolution, self.output_dim = resolution, output
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn((resolution // patch) ** 2 + 1, width) * width**-0.5)
        self.ln_pre = CastingNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = CastingNorm(width)
        self.proj = nn.Parameter(torch.randn(width, output) * width**-0.5)

    def forward(self, x):
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        x = torch.cat((self.class_embedding.to(x).expand(len(x), 1, -1), x), 1)
        x = self.ln_pre(x + self.positional_embedding.to(x.dtype))
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0]) @ self.proj


class CLIP(nn.Module):
    def __init__(self, size=32, resolution=64, patch=16, width=64, layers=3, heads=2, length=77, vocabulary=49408):
        super().__init__()
        self.context_length, self.vocab_size = length, vocabulary
        self.visual = VisionTransformer(resolution, patch, width, layers, heads, size)
        mask = torch.full((length, length), -torch.inf).triu(1)
        self.transformer = Transformer(width, 2, heads, mask)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width) * 0.01)
        self.ln_final = CastingNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, size) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(100.0).log())

    @property
    def dtype(self):
        return self.visual.conv1.weight.dtype

    def encode_image(self, image):
        return self.visual(image.to(self.dtype))

    def encode_text(self, text):
        x = self.token_embedding(text).to(self.dtype) + self.positional_embedding.to(self.dtype)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        x = self.ln_final(x).to(self.dtype)
        return x[torch.arange(len(x)), text.argmax(-1)] @ self.text_projection

    def forward(self, image, text):
        image, text = self.encode_image(image), self.encode_text(text)
        return image @ text.T, text @ image.T


def openai_model(seed=0, **sizes):
    torch.manual_seed(seed)
    return CLIP(**sizes).eval()


def in_half_precision(model, dtype=torch.float16):
    """As clip.load has it on a GPU: matrices and projections in half precision, norms and embeddings in float32."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
            module.to(dtype)
    for owner, name in ((model, "text_projection"), (model.visual, "proj")):
        getattr(owner, name).data = getattr(owner, name).data.to(dtype)
    return model


def original_state(model):
    """The state dict of OpenAI's files: half precision where in_half_precision has it, and three sizes."""
    state = {name: value.detach().clone() for name, value in in_half_precision(model).state_dict().items()}
    sizes = {
        "input_resolution": model.visual.input_resolution,
        "context_length": model.context_length,
        "vocab_size": model.vocab_size,
    }
    return state | {name: torch.tensor(value) for name, value in sizes.items()}
