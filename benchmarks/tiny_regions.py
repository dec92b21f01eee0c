"""What the tiny CLIP learns from: batches of scenes and of their regions, and the features of both.

A region's feature is the CLS token's, which in the last block attends to the patches of the region only. So what names
a region is in the values of the last block, where CLIP has it and an attention map reaches it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import open_clip
import torch
from tiny_scenes import CLASSES, COLOURS, PATTERNS, make_scenes
from torch.nn import functional

SHAPE_SHARE, LOOK_SHARE = 0.85, 0.35
"""How often the caption of a region says its shape, and its colour and its pattern."""


class Shelf(NamedTuple):
    """Scenes of one side, ready to be batched."""

    scenes: list
    pixels: torch.Tensor
    """``[S, 3, side, side]`` uint8."""
    patches: torch.Tensor
    """``[S, grid, grid]`` int64: label of most of a patch's pixels, -1 where none has most of them."""


def make_shelf(count, seed, side, patch):
    """The same scenes for the same seed; a patch is of a region that has 60 % of it."""
    scenes = make_scenes(count, seed, side)
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2).contiguous()
    grid, patches = side // patch, []
    for scene in scenes:
        cells = scene.labels.reshape(grid, patch, grid, patch)
        shares = np.stack([(cells == label).mean((1, 3)) for label in range(len(CLASSES))])
        patches.append(np.where(shares.max(0) >= 0.6, shares.argmax(0), -1))
    return Shelf(scenes, pixels, torch.from_numpy(np.stack(patches)))


class Batch(NamedTuple):
    """Scenes, and K of their regions."""

    scenes: list
    pixels: torch.Tensor
    """``[B, 3, side, side]`` normalised."""
    things: list
    """K things, the ground among them."""
    owner: torch.Tensor
    """``[K]`` index of the scene, in order."""
    masks: torch.Tensor
    """``[K, grid, grid]`` bool."""


def normalised(pixels):
    """``[B, 3, side, side]`` uint8 -> float, as CLIP takes it."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    return (pixels / 255 - mean) / deviation


def draw_batch(shelf, chosen, rng):
    """The chosen scenes, half of the time mirrored, and all their regions of a patch or more."""
    mirrored = rng.random() < 0.5
    pixels, patches = shelf.pixels[chosen], shelf.patches[chosen]
    if mirrored:
        pixels, patches = pixels.flip(-1), patches.flip(-1)
    things, owner, masks = [], [], []
    for i, index in enumerate(chosen):
        for thing, label in shelf.scenes[index].regions():
            mask = patches[i] == label
            if mask.any():
                things.append(thing)
                owner.append(i)
                masks.append(mask)
    scenes = [shelf.scenes[index] for index in chosen]
    return Batch(scenes, normalised(pixels), things, torch.tensor(owner), torch.stack(masks))


def some_patches(masks, rng, whole=0.5):
    """With probability whole a region's patches, or some of them: a share that is as likely 1/64 as 1/2."""
    share = torch.from_numpy(np.where(rng.random(len(masks)) < whole, 1.0, 2.0 ** rng.uniform(-6, 0, len(masks))))
    order = torch.from_numpy(rng.random(masks.shape)).masked_fill(~masks, 2.0)
    allowed = torch.maximum(share.view(-1, 1, 1), order.amin((1, 2), keepdim=True))
    return masks & (order <= allowed)


def run_block(block, x):
    """What the block does, with one copy less than PyTorch's attention module makes."""
    heads = block.attn.num_heads
    qkv = functional.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = x + block.attn.out_proj(attended)
    return x + block.mlp(block.ln_2(x))


def tokens_of(visual, pixels, place, kept):
    """Tokens after all blocks but the last, ``[B, 1 + n, width]``: CLS and the patches kept, ``[B, n]`` indices.

    place: top and left of the grid in the trained one.
    """
    patches = visual.conv1(pixels)
    grid, trained = patches.shape[-1], visual.grid_size[0]
    (top, left), width = place, patches.shape[1]
    positions = visual.positional_embedding
    square = positions[1:].view(trained, trained, width)[top : top + grid, left : left + grid]
    cls = (visual.class_embedding + positions[0]).expand(len(pixels), 1, -1)
    x = patches.flatten(2).mT + square.reshape(-1, width)
    if kept.shape[1] < x.shape[1]:
        x = x.gather(1, kept[..., None].expand(-1, -1, width))
    x = visual.ln_pre(torch.cat((cls, x), 1))
    for block in visual.transformer.resblocks[:-1]:
        x = run_block(block, x)
    return x


def encode(visual, batch, masks, place, rng, dropped=0.0, even=0.0):
    """Features of the scenes ``[B, D]`` and of the regions ``[K, D]``, both L2-normalised.

    What names a region is to be in the values alone. So its residual is the CLS token's, that of any patch of the scene
    or none, each a third of the time, and the last MLP is left out half of the time. Its patches get equal attention
    with probability even, as self-self attention and CDAM's map give them.
    """
    block, count = visual.transformer.resblocks[-1], len(batch.pixels)
    masks = masks.flatten(1)
    kept = torch.arange(masks.shape[1]).expand(count, -1)
    if dropped:
        kept = torch.from_numpy(rng.random(kept.shape)).argsort(1)[:, : round(masks.shape[1] * (1 - dropped))]
        masks = masks.gather(1, kept[batch.owner])
    x = tokens_of(visual, batch.pixels, place, kept)
    tokens, heads = block.ln_1(x), block.attn.num_heads
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    width = weight.shape[1]
    query = functional.linear(tokens[:, :1], weight[:width], bias[:width])
    key, value = functional.linear(tokens, weight[width:], bias[width:]).chunk(2, -1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))  # [B, heads, N, d]
    scores = (q @ k.mT / q.shape[-1] ** 0.5)[:, :, 0]  # [B, heads, N+1]
    nth = 1 + torch.arange(len(batch.owner)) - torch.searchsorted(batch.owner, batch.owner)  # 0 is the whole scene
    allowed = torch.ones(count, 1 + int(nth.max()), scores.shape[-1], dtype=torch.bool)
    allowed[batch.owner, nth] = functional.pad(masks, (1, 0))
    inside = scores[:, :, None].masked_fill(~allowed[:, None], -1e4).softmax(-1)  # [B, heads, regions, N+1]
    equal = torch.zeros(inside.shape[0], 1, inside.shape[2], 1, dtype=torch.bool)
    equal[batch.owner, 0, nth, 0] = torch.from_numpy(rng.random(len(nth)) < even)
    inside = torch.where(equal, (allowed / allowed.sum(-1, keepdim=True))[:, None], inside)
    attended = (inside @ v).transpose(1, 2).flatten(2)
    attended = torch.cat((attended[:, 0], attended[batch.owner, nth]))
    any_patch = torch.from_numpy(rng.integers(1, x.shape[1], len(nth)))
    kind = torch.from_numpy(rng.integers(3, size=(len(nth), 1)))
    residual = torch.where(kind == 0, x[batch.owner, 0], x[batch.owner, any_patch]) * (kind < 2)
    y = torch.cat((x[:, 0], residual)) + functional.linear(attended, block.attn.out_proj.weight)
    through = torch.from_numpy(rng.random((len(y), 1)) >= 0.5).float()
    through[:count] = 1
    y = y + block.mlp(block.ln_2(y)) * through
    features = functional.normalize(visual.ln_post(y) @ visual.proj, dim=-1)
    return features[:count], features[count:]


def attributes(things):
    """``[K, 3]`` int: shape, colour, pattern; -1 where nothing is said."""
    orders = (list(CLASSES), list(COLOURS), list(PATTERNS))
    rows = [[-1 if word is None else order.index(word) for word, order in zip(thing, orders)] for thing in things]
    return torch.tensor(rows).reshape(-1, 3)


def true_of_regions(said, things):
    """``[captions, regions]`` bool: what is said, one Thing a caption, is true of the region."""
    words, true = attributes(said)[:, None], attributes(things)[None]
    return ((words == -1) | (words == true)).all(-1)


def true_of_scenes(said, scenes):
    """``[captions, scenes]`` bool: each of a caption's things is in the scene; that of none is true of empty ones."""
    phrases = [thing for caption in said for thing in caption]
    of_caption = torch.tensor([i for i, caption in enumerate(said) for _ in caption], dtype=torch.long)
    things = [thing for scene in scenes for thing in scene.things]
    of_scene = torch.tensor([i for i, scene in enumerate(scenes) for _ in scene.things], dtype=torch.long)
    present = torch.zeros(len(phrases), len(scenes)).index_add(1, of_scene, true_of_regions(phrases, things).float())
    missing = torch.zeros(len(said), len(scenes)).index_add(0, of_caption, (present == 0).float())
    empty = torch.tensor([not scene.things for scene in scenes])
    silent = torch.tensor([not caption for caption in said])
    return torch.where(silent[:, None], empty[None], missing == 0)
