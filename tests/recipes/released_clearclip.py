"""A segmentor and a fork of open_clip laid out as ClearCLIP's code lays them out.

The image tower's ``forward`` takes the base method and whether the residual is dropped, gives patch tokens alone, and
goes through the last block a second time unchanged. The text is this project's own.
"""

import torch
from released_clip import split, tokenize
from released_sclip import CLIPForSegmentation, get_cls_idx, word_features
from torch import nn


class ResidualAttentionBlock(nn.Module):
    """open_clip's before it put the batch first."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ls_1 = nn.Identity()
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ls_2 = nn.Identity()

    def forward(self, q_x, k_x=None, v_x=None, attn_mask=None):
        y = self.ln_1(q_x)
        x = q_x + self.ls_1(self.attn(y, y, y, need_weights=False, attn_mask=attn_mask)[0])
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    def __init__(self, width, layers, heads):
        super().__init__()
        self.resblocks = nn.ModuleList([ResidualAttentionBlock(width, heads) for _ in range(layers)])

    def forward(self, x, attn_mask=None):
        for block in self.resblocks:
            x = block(x, attn_mask=attn_mask)
        return x


class VisionTransformer(nn.Module):
    output_tokens = False

    def __init__(self, image=64, patch=16, width=96, layers=3, heads=12, output=256):
        super().__init__()
        self.image_size, self.patch_size = (image, image), (patch, patch)
        self.grid_size = (image // patch, image // patch)
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(self.grid_size[0] * self.grid_size[1] + 1, width))
        self.patch_dropout = nn.Identity()
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.attn_pool = None
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, output))

    def before_the_last_block(self, x):
        """[N+1, B, width]."""
        grid = [side // patch for side, patch in zip(x.shape[-2:], self.patch_size)]
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        positions = self.positional_embedding
        if tuple(grid) != self.grid_size:
            image = positions[1:].reshape(1, *self.grid_size, -1).permute(0, 3, 1, 2)
            factors = [(side + 0.1) / trained for side, trained in zip(grid, self.grid_size)]
            image = nn.functional.interpolate(image, scale_factor=factors, mode="bicubic")
            positions = torch.cat((positions[:1], image[0].flatten(1).T))
        x = torch.cat((self.class_embedding.expand(len(x), 1, -1), x), 1) + positions
        x = self.ln_pre(self.patch_dropout(x)).permute(1, 0, 2)
        for blk in self.transformer.resblocks[:-1]:
            x = blk(x)
        return x

    def forward(self, x, model_type="ClearCLIP", ignore_residual=True):
        x = self.before_the_last_block(x)
        output = 0
        for blk in self.transformer.resblocks[-1:]:
            attended = self.custom_attn(blk.attn, blk.ln_1(x), model_type=model_type)
            if ignore_residual:
                output += attended
            else:
                kept = x + attended
                output += kept + blk.mlp(blk.ln_2(kept))
            x = blk(x)
        tokens = self.ln_post(output.permute(1, 0, 2))[:, 1:]
        return tokens @ self.proj

    def custom_attn(self, attn_layer, x, model_type="ClearCLIP"):
        q, k, v = split(attn_layer, x)
        same_q, same_k = (torch.softmax(part @ part.mT * part.shape[-1] ** -0.5, -1) for part in (q, k))
        weights = {
            "MaskCLIP": torch.eye(q.shape[1], dtype=q.dtype).expand_as(same_q),
            "SCLIP": same_q + same_k,
            "ClearCLIP": same_q,
            "vanilla": torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1),
        }
        out = torch.bmm(weights[model_type], v).transpose(0, 1).reshape(x.shape)
        return attn_layer.out_proj(out)


class ForkedCLIP(nn.Module):
    """The text tower is flat in the model, as open_clip's ``CLIP`` has it."""

    context_length = 40

    def __init__(self, seed=0, **vision):
        super().__init__()
        self.visual = VisionTransformer(**vision)
        width = self.visual.proj.shape[1]
        self.token_embedding = nn.Embedding(256, width)
        self.positional_embedding = nn.Parameter(torch.randn(self.context_length, width))
        self.transformer = Transformer(width, 1, 4)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, width))
        self.logit_scale = nn.Parameter(torch.tensor(2.66))
        self.register_buffer("attn_mask", torch.full((40, 40), float("-inf")).triu(1), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 0 and not (".ln_" in name and name.endswith("weight")):
                size = 0.1 if name.endswith("bias") else max(parameter[0].numel(), 4) ** -0.5
                parameter.data = size * torch.randn(parameter.shape, generator=generator)
        self.eval().requires_grad_(False)

    def encode_image(self, image, model_type, ignore_residual=False, normalize=False):
        features = self.visual(image, model_type, ignore_residual)
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text, normalize=False):
        x = (self.token_embedding(text) + self.positional_embedding).permute(1, 0, 2)
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask).permute(1, 0, 2))
        last = (text > 0).sum(-1) - 1
        x = x[torch.arange(len(x)), last] @ self.text_projection
        return nn.functional.normalize(x, dim=-1) if normalize else x


class ClearCLIPSegmentation(CLIPForSegmentation):
    """Sliding, words and classes are SCLIP's."""

    def __init__(self, net, lines, clip_type="CLIP", model_type="ClearCLIP", ignore_residual=True, logit_scale=50):
        nn.Module.__init__(self)
        self.net, self.tokenizer = net, tokenize
        self.clip_type, self.model_type = clip_type, model_type
        self.patch_size = net.visual.patch_size
        query_words, query_idx = get_cls_idx(lines)
        self.num_queries, self.num_classes = len(query_words), max(query_idx) + 1
        self.query_idx = torch.tensor(query_idx)
        self.query_features = word_features(query_words, net.encode_text)
        self.dtype = self.query_features.dtype
        self.ignore_residual, self.logit_scale, self.prob_thd = ignore_residual, logit_scale, 0.0
        self.slide_stride, self.slide_crop = 224, 448

    def forward_feature(self, img, logit_size=None):
        image_features = self.net.encode_image(img, self.model_type, self.ignore_residual)
        logits = nn.functional.normalize(image_features, dim=-1) @ self.query_features.T
        w, h = (side // patch for side, patch in zip(img[0].shape[-2:], self.patch_size))
        return self.upsampled(logits.permute(0, 2, 1).reshape(-1, logits.shape[-1], w, h), img, logit_size)
