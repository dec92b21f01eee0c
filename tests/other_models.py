"""Small random models of transformers, and the same weights in open_clip's and timm's classes."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import SimpleTokenizer
from torch import nn
from towers import last_attention, projected, self_self, with_mlp

NO_TRANSFORMERS = "transformers: not there, or not with this PyTorch"


def transformers():
    """The package, or a skip by name where it, or its models with this PyTorch, cannot be used."""
    package = pytest.importorskip("transformers")
    try:
        package.CLIPModel(clip_config(package, layers=1, vocabulary=8))
    except (ImportError, AttributeError, NameError, RuntimeError, TypeError) as error:
        pytest.skip(f"{NO_TRANSFORMERS}: {error}", allow_module_level=True)
    return package


def clip_config(package, layers=3, image=64, vocabulary=49408):
    vision = {"image_size": image, "patch_size": 16, "num_hidden_layers": layers}
    text = {"vocab_size": vocabulary, "max_position_embeddings": 77, "num_hidden_layers": 2}
    text |= {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    return package.CLIPConfig(text_config=_sizes(text), vision_config=_sizes(vision), projection_dim=32)


def siglip_config(package, layers=3, image=64, vocabulary=49408):
    vision = {"image_size": image, "patch_size": 16, "num_hidden_layers": layers}
    text = {"vocab_size": vocabulary, "max_position_embeddings": 16, "num_hidden_layers": 2, "projection_size": 64}
    return package.SiglipConfig(text_config=_sizes(text), vision_config=_sizes(vision))


def _sizes(own):
    return {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "projection_dim": 32} | own


def with_random_weights(model, seed=0):
    """Large enough to matter, biases and norms too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                values *= 1.5 / parameter[0].numel() ** 0.5
            elif "norm" in name and name.endswith("weight"):
                values = 1 + 0.3 * values
            else:
                values *= 0.3
            parameter.copy_(values)
    return model.eval()


def clip_of_transformers(seed=0, **sizes):
    package = transformers()
    return with_random_weights(package.CLIPModel(clip_config(package, **sizes)), seed)


def siglip_of_transformers(seed=0, **sizes):
    package = transformers()
    if not hasattr(package, "SiglipModel"):
        pytest.skip("transformers: SigLIP is there from 4.37 on")
    return with_random_weights(package.SiglipModel(siglip_config(package, **sizes)), seed)


def as_open_clip(model):
    """A CLIPModel's weights in open_clip's CLIP."""
    vision, text = model.vision_model, model.text_model
    layers = len(vision.encoder.layers)
    own = open_clip.CLIP(
        32,
        {"image_size": 64, "patch_size": 16, "head_width": 32, "width": 64, "layers": layers, "mlp_ratio": 1.5},
        {"context_length": 77, "vocab_size": 49408, "heads": 2, "width": 64, "layers": 2, "mlp_ratio": 1.5},
        quick_gelu=True,
    ).eval()
    state = own.state_dict()
    state |= {
        "visual.class_embedding": vision.embeddings.class_embedding,
        "visual.positional_embedding": vision.embeddings.position_embedding.weight,
        "visual.conv1.weight": vision.embeddings.patch_embedding.weight,
        "visual.proj": model.visual_projection.weight.T,
        "token_embedding.weight": text.embeddings.token_embedding.weight,
        "positional_embedding": text.embeddings.position_embedding.weight,
        "text_projection": model.text_projection.weight.T,
        **_norm("visual.ln_pre", vision.pre_layrnorm),
        **_norm("visual.ln_post", vision.post_layernorm),
        **_norm("ln_final", text.final_layer_norm),
    }
    for prefix, encoder in (("visual.transformer", vision.encoder), ("transformer", text.encoder)):
        for i, layer in enumerate(encoder.layers):
            state |= _layer(f"{prefix}.resblocks.{i}", layer)
    own.load_state_dict(state)
    return own


def _norm(name, module):
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}


def joint(attention):
    """Weight and bias of the queries, keys and values, one after the other."""
    parts = attention.q_proj, attention.k_proj, attention.v_proj
    return torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])


def _layer(name, layer):
    weight, bias = joint(layer.self_attn)
    return {
        f"{name}.attn.in_proj_weight": weight,
        f"{name}.attn.in_proj_bias": bias,
        **_norm(f"{name}.attn.out_proj", layer.self_attn.out_proj),
        **_norm(f"{name}.mlp.c_fc", layer.mlp.fc1),
        **_norm(f"{name}.mlp.c_proj", layer.mlp.fc2),
        **_norm(f"{name}.ln_1", layer.layer_norm1),
        **_norm(f"{name}.ln_2", layer.layer_norm2),
    }


class WithTimm(nn.Module):
    """An image tower of timm as open_clip holds it, and a text tower that is a table."""

    def __init__(self, trunk, head=None):
        super().__init__()
        self.visual = TimmModel.__new__(TimmModel)
        nn.Module.__init__(self.visual)
        self.visual.trunk, self.visual.head = trunk, head or nn.Sequential()
        self.visual.image_size = (64, 64)
        self.table = nn.Embedding(49408, 64)

    def encode_image(self, image):
        return self.visual(image)

    def encode_text(self, text):
        return self.table(text).mean(1)


def timm_trunk(seed=0, **options):
    """A ViT of timm of width 64, of SigLIP's kind unless told otherwise."""
    vit = pytest.importorskip("timm.models.vision_transformer").VisionTransformer
    known = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 2, "mlp_ratio": 1.5}
    known |= {"class_token": False, "global_pool": "map", "num_classes": 0}
    return with_random_weights(vit(**(known | options)), seed)


def as_timm(model):
    """A SiglipModel's image tower in timm's ViT, as open_clip holds SigLIP."""
    vision = model.vision_model
    gelu = lambda: nn.GELU(approximate="tanh")  # noqa: E731 - timm calls it
    norm = lambda size, **options: nn.LayerNorm(size, eps=1e-6, **options)  # noqa: E731
    trunk = timm_trunk(depth=len(vision.encoder.layers), act_layer=gelu, norm_layer=norm)
    head, attention = vision.head, vision.head.attention
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    state = {
        "patch_embed.proj.weight": vision.embeddings.patch_embedding.weight,
        "patch_embed.proj.bias": vision.embeddings.patch_embedding.bias,
        "pos_embed": vision.embeddings.position_embedding.weight[None],
        **_norm("norm", vision.post_layernorm),
        "attn_pool.latent": head.probe,
        "attn_pool.q.weight": weight[:64],
        "attn_pool.q.bias": bias[:64],
        "attn_pool.kv.weight": weight[64:],
        "attn_pool.kv.bias": bias[64:],
        **_norm("attn_pool.proj", attention.out_proj),
        **_norm("attn_pool.norm", head.layernorm),
        **_norm("attn_pool.mlp.fc1", head.mlp.fc1),
        **_norm("attn_pool.mlp.fc2", head.mlp.fc2),
    }
    for i, layer in enumerate(vision.encoder.layers):
        qkv, biases = joint(layer.self_attn)
        state |= {
            f"blocks.{i}.attn.qkv.weight": qkv,
            f"blocks.{i}.attn.qkv.bias": biases,
            **_norm(f"blocks.{i}.attn.proj", layer.self_attn.out_proj),
            **_norm(f"blocks.{i}.mlp.fc1", layer.mlp.fc1),
            **_norm(f"blocks.{i}.mlp.fc2", layer.mlp.fc2),
            **_norm(f"blocks.{i}.norm1", layer.layer_norm1),
            **_norm(f"blocks.{i}.norm2", layer.layer_norm2),
        }
    trunk.load_state_dict(state)
    return WithTimm(trunk).eval()


def clip_tokenizer_files(folder):
    """open_clip's vocabulary as the two files that transformers' CLIPTokenizer reads."""
    own = SimpleTokenizer()
    named = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {named.get(token, token): index for token, index in own.encoder.items()}
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.get)
    (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (Path(folder) / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


class Adapted(nn.Module):
    """As PEFT's models."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def get_base_model(self):
        return self.base_model


def plainly(layer):
    """A layer under the names that the plain loops know."""
    weight, bias = joint(layer.self_attn)
    heads, out = layer.self_attn.num_heads, layer.self_attn.out_proj
    attention = SimpleNamespace(in_proj_weight=weight, in_proj_bias=bias, num_heads=heads, out_proj=out)
    same = nn.Identity()
    norms = {"ln_1": layer.layer_norm1, "ln_2": layer.layer_norm2}
    return SimpleNamespace(attn=attention, ls_1=same, ls_2=same, mlp=layer.mlp, **norms)


@torch.no_grad()
def plain_siglip(model, image, base, attention=None):
    """Normalised patch features [N, D] of one image [3, 64, 64], one head and one patch at a time.

    attention: a map [N, N] in the place of the base's.
    """
    vision = model.vision_model
    patches = vision.embeddings.patch_embedding(image[None])[0].flatten(1).T
    x = second = patches + vision.embeddings.position_embedding.weight
    *earlier, last = (plainly(layer) for layer in vision.encoder.layers)
    for block in earlier:
        tokens = block.ln_1(x)
        second = second + projected(block, self_self(block, tokens))
        q, k, v = (tokens @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, -1)
        attended = []
        for head in zip(*(part.chunk(block.attn.num_heads, -1) for part in (q, k, v))):
            weights = torch.softmax(head[0] @ head[1].T / math.sqrt(head[0].shape[-1]), -1)
            attended.append(weights @ head[2])
        x = with_mlp(block, x + projected(block, torch.cat(attended, -1)))
    attended = last_attention(last, last.ln_1(x), base)
    if attention is not None:  # maskclip's are the values
        attended = attention @ last_attention(last, last.ln_1(x), "maskclip")
    output = projected(last, attended)
    if base == "gem":
        y = second + output
    elif base == "clearclip":
        y = output
    else:
        y = with_mlp(last, x + output)
    features = torch.cat([vision.head(vision.post_layernorm(token[None, None])) for token in y])
    return features / features.norm(dim=-1, keepdim=True)
