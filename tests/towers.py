"""Small random open_clip models, and the base methods written out plainly: one image, one head at a time."""

import math

import open_clip
import torch
from torch.nn import functional

WRITTEN_OUT = ("maskclip", "sclip", "clearclip", "gem")
"""The base methods that `plain_features` knows."""


def small_model(*, layers=3, patch=16, image=64, seed=0, quick_gelu=False, custom_text=False, **vision):
    """A CLIP of width 64 with 2 heads and 32 shared dims, its weights large enough to matter."""
    torch.manual_seed(seed)
    vision_config = {
        "image_size": image,
        "patch_size": patch,
        "head_width": 32,
        "width": 64,
        "layers": layers,
        **vision,
    }
    text_config = {"context_length": 77, "vocab_size": 49408, "heads": 2, "width": 64, "layers": 2}
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    model = kind(embed_dim=32, vision_cfg=vision_config, text_cfg=text_config, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for name, parameter in model.visual.named_parameters():
            if name.endswith(("in_proj_bias", "out_proj.bias")):
                parameter.normal_(std=0.3)
            elif "in_proj_weight" in name:
                parameter.mul_(2)
            elif name.endswith("gamma"):
                parameter.uniform_(0.2, 1.5)
    return model


def resized_positions(visual, height, width, base):
    trained = visual.positional_embedding
    rows, columns = visual.grid_size
    if (height, width) == (rows, columns):
        return trained
    image = trained[1:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
    if base == "gem":
        image = functional.interpolate(image, size=(height, width), mode="bicubic", antialias=True)
    else:
        factors = ((height + 0.1) / rows, (width + 0.1) / columns)
        image = functional.interpolate(image, scale_factor=factors, mode="bicubic")
    assert image.shape[-2:] == (height, width)
    return torch.cat((trained[:1], image[0].permute(1, 2, 0).reshape(height * width, -1)))


def tokens_before_the_blocks(visual, pixels, base):
    """One image [3, H, W] -> [N+1, width]."""
    patches = visual.conv1(pixels[None])
    height, width = patches.shape[-2:]
    x = torch.cat((visual.class_embedding[None], patches[0].flatten(1).T))
    return visual.ln_pre(x + resized_positions(visual, height, width, base))


def run(block, x):
    """The unchanged block on [L, width]; older open_clip puts the tokens first."""
    return block(x[None])[0] if block.attn.batch_first else block(x[:, None])[:, 0]


def heads_of(block, tokens):
    """Query, key and value of each head, [L, d] each."""
    q, k, v = (tokens @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, -1)
    return list(zip(*(part.chunk(block.attn.num_heads, -1) for part in (q, k, v))))


def projected(block, attended):
    return block.ls_1(attended @ block.attn.out_proj.weight.T + block.attn.out_proj.bias)


def with_mlp(block, x):
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def self_self(block, tokens):
    """GEM: the mean of q-q, k-k and v-v attention, each after one iteration, [L, width]."""
    heads = []
    for q, k, v in heads_of(block, tokens):
        rate = tokens.norm(dim=-1).mean() / math.sqrt(v.shape[-1])
        parts = []
        for x in (q, k, v):
            x = x / x.norm(dim=-1, keepdim=True)
            x = torch.softmax(rate * (x @ x.T), -1) @ x
            x = x / x.norm(dim=-1, keepdim=True)
            parts.append(torch.softmax(rate * (x @ x.T), -1) @ v)
        heads.append(sum(parts) / 3)
    return torch.cat(heads, -1)


def last_attention(block, tokens, base):
    """[L, width] attended values of the last block."""
    if base == "gem":
        return self_self(block, tokens)
    heads = []
    for q, k, v in heads_of(block, tokens):
        scale = q.shape[-1] ** -0.5
        if base == "maskclip":
            heads.append(v)
        elif base == "sclip":
            heads.append((torch.softmax(q @ q.T * scale, -1) + torch.softmax(k @ k.T * scale, -1)) @ v)
        else:
            heads.append(torch.softmax(q @ q.T * scale, -1) @ v)
    return torch.cat(heads, -1)


@torch.no_grad()
def plain_features(model, pixels, base, attention=None):
    """Normalised patch features [N, D] of one image [3, H, W]; attention: a map [N, N] in the base's place."""
    visual = model.visual
    x = tokens_before_the_blocks(visual, pixels, base)
    *earlier, block = visual.transformer.resblocks
    second = None
    for i, other in enumerate(earlier):
        if base == "gem" and len(earlier) + 1 - i <= 6:
            second = (x if second is None else second) + projected(other, self_self(other, other.ln_1(x)))
        x = run(other, x)
    tokens = block.ln_1(x)
    if attention is None:
        attended = last_attention(block, tokens, base)
    else:
        weight = torch.zeros(len(x), len(x), dtype=x.dtype)
        weight[1:, 1:] = attention
        attended = torch.cat([weight @ v for _, _, v in heads_of(block, tokens)], -1)
    output = projected(block, attended)
    if base == "gem":
        y = (x if second is None else second) + output
    elif base == "clearclip":
        y = output
    else:
        y = with_mlp(block, x + output)
    features = (visual.ln_post(y) @ visual.proj)[1:]
    return features / features.norm(dim=-1, keepdim=True)
