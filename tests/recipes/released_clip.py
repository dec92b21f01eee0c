"""A small CLIP laid out as OpenAI's code lays it out, in the two forms in which dense code has changed it.

Tokens come first, [N+1, B, width], heads lie in the batch of ``bmm``, blocks are a Sequential, and nothing is there
that open_clip adds (``grid_size``, ``ls_1``). The interfaces are those of the public SCLIP and CDAM code; the text is
this project's own.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class LayerNorm(nn.LayerNorm):
    """In float32 for half precision."""

    def forward(self, x):
        return super().forward(x if x.dtype == torch.float64 else x.float()).to(x.dtype)


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = LayerNorm(width)

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads):
        super().__init__()
        self.resblocks = nn.Sequential(*[ResidualAttentionBlock(width, heads) for _ in range(layers)])


def split(attn_layer, x):
    """Query, key and value of all heads, [B * heads, N+1, d] each."""
    tokens, batch, _ = x.shape
    parts = functional.linear(x, attn_layer.in_proj_weight, attn_layer.in_proj_bias).chunk(3, -1)
    return [part.reshape(tokens, batch * attn_layer.num_heads, -1).transpose(0, 1) for part in parts]


def join(attn_layer, out, like):
    return attn_layer.out_proj(out.transpose(0, 1).reshape(like.shape))


class VisionTransformer(nn.Module):
    """SCLIP's: the last block attends by q-q and k-k, ``csa=True``; nothing between the passes is kept."""

    def __init__(self, image=224, patch=16, width=96, layers=3, heads=12, output=256):
        super().__init__()
        self.patch_size = patch
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((image // patch) ** 2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, output) * width**-0.5)

    def before_the_last_block(self, x):
        """[N+1, B, width]."""
        w, h = (side // self.patch_size for side in x.shape[-2:])
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        x = torch.cat((self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x), 1)
        x = self.ln_pre(x + self.interpolate_pos_encoding(w, h).to(x.dtype)).permute(1, 0, 2)
        for blk in self.transformer.resblocks[:-1]:
            x = blk(x)
        return x

    def interpolate_pos_encoding(self, w, h):
        trained = math.isqrt(len(self.positional_embedding) - 1)
        if w == h == trained:
            return self.positional_embedding
        patches = self.positional_embedding[1:].reshape(1, trained, trained, -1).permute(0, 3, 1, 2)
        factors = ((w + 0.1) / trained, (h + 0.1) / trained)
        patches = functional.interpolate(patches, scale_factor=factors, mode="bicubic")
        return torch.cat((self.positional_embedding[:1], patches[0].flatten(1).T))

    def custom_attn(self, attn_layer, x, csa=False):
        q, k, v = split(attn_layer, x)
        scale = q.shape[-1] ** -0.5
        if csa:
            same_q, same_k = (torch.softmax(part @ part.mT * scale, -1) for part in (q, k))
            return join(attn_layer, torch.bmm(same_q + same_k, v), x)
        return join(attn_layer, torch.bmm(torch.softmax(q @ k.mT * scale, -1), v), x)

    def forward(self, x, return_all=False, csa=True):
        x = self.before_the_last_block(x)
        for blk in self.transformer.resblocks[-1:]:
            x = x + self.custom_attn(blk.attn, blk.ln_1(x), csa=csa)
            x = x + blk.mlp(blk.ln_2(x))
        x = self.ln_post(x.permute(1, 0, 2)) @ self.proj
        return x if return_all else x[:, 0]


class KeepingVisionTransformer(VisionTransformer):
    """CDAM's: the first pass of the last block is MaskCLIP's, the tokens before and after it are kept."""

    intermediate_feat_before_last = intermediate_feat_after_last = 0

    def forward(self, x, window, slide, return_all=False, csa=True):
        self.window, self.slide = window, slide
        x = self.intermediate_feat_before_last = self.before_the_last_block(x)
        for blk in self.transformer.resblocks[-1:]:
            x = x + self.custom_dual_attn(blk.attn, blk.ln_1(x), csa=csa)
            x = x + blk.mlp(blk.ln_2(x))
        self.intermediate_feat_after_last = x
        x = self.ln_post(x.permute(1, 0, 2)) @ self.proj
        return x if return_all else x[:, 0]

    def custom_dual_attn(self, attn_layer, x, weight=None, csa=False):
        _, _, v = split(attn_layer, x)
        return join(attn_layer, v if weight is None else torch.bmm(weight, v), x)


class CLIP(nn.Module):
    def __init__(self, visual, seed=0):
        super().__init__()
        self.visual = visual
        self.token_embedding = nn.Embedding(256, visual.proj.shape[1])
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if not name.endswith(("ln_1.weight", "ln_2.weight", "ln_pre.weight", "ln_post.weight")):
                size = 0.1 if name.endswith("bias") else max(parameter[0].numel(), 4) ** -0.5
                parameter.data = size * torch.randn(parameter.shape, generator=generator)
        for block in visual.transformer.resblocks:
            block.attn.in_proj_weight.data *= 2
        self.eval().requires_grad_(False)

    @property
    def dtype(self):
        return self.visual.conv1.weight.dtype

    def encode_image(self, image, *arguments, **options):
        return self.visual(image.type(self.dtype), *arguments, **options)

    def encode_text(self, text):
        letters = self.token_embedding(text) * (text > 0)[..., None]
        size = letters.shape[-1]
        turn = (torch.arange(text.shape[1])[:, None] + torch.arange(size)) % size  # the order of the letters matters
        return letters.gather(-1, turn.to(text.device).expand_as(letters)).sum(1).type(self.dtype)


def convert_weights(net):
    """To float16 but for the layer norms and embeddings, as OpenAI's code loads them for a GPU."""
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)):
            module.half()
    net.visual.proj.data = net.visual.proj.data.half()
    return net


def tokenize(texts):
    """``clip.tokenize``: strings -> [n, 77]; letters here, [n, 40]."""
    return torch.tensor([list(text.encode()[:40].ljust(40, b"\0")) for text in texts])


def images(count, size=(128, 128)):
    """A few flat regions with noise, normalised: [count, 3, *size]."""
    coarse = torch.randn(count, 3, 3, 4, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(2))
    return functional.interpolate(coarse, size=size, mode="nearest") + 0.2 * noise


templates = ["{}.".format, "{}s".format]
"""In place of the 80 of ``prompts.imagenet_template``."""
