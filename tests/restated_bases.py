"""NACLIP, SC-CLIP and ProxyCLIP's rule written out from their published descriptions: one image, loops, float64.

Each returns the normalised patch features ``[N, D]`` and the attention of patches to patches ``[N, N]``, its mean over
heads (SC-CLIP: and over its two paths). ``attention`` is a map that goes in the place of the method's own.
"""

import math

import torch
from torch.nn import functional
from towers import projected, run, tokens_before_the_blocks


def _per_head(block, tokens, part):
    width = tokens.shape[-1]
    start = {"q": 0, "k": width, "v": 2 * width}[part]
    weight = block.attn.in_proj_weight[start : start + width]
    whole = tokens @ weight.T + block.attn.in_proj_bias[start : start + width]
    size = width // block.attn.num_heads
    return [whole[:, i : i + size] for i in range(0, width, size)]


def _features(visual, x):
    features = visual.ln_post(x) @ visual.proj
    return features / features.norm(dim=-1, keepdim=True)


@torch.no_grad()
def naclip(model, pixels, attention=None, deviation=5.0):
    visual = model.visual
    rows, columns = pixels.shape[1] // 16, pixels.shape[2] // 16
    x = tokens_before_the_blocks(visual, pixels, "naclip")
    *earlier, block = visual.transformer.resblocks
    for other in earlier:
        x = run(other, x)
    tokens = block.ln_1(x)
    places = [(row, column) for row in range(rows) for column in range(columns)]
    near = torch.zeros(len(tokens), len(tokens), dtype=torch.float64)
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            squared = (row - other_row) ** 2 + (column - other_column) ** 2
            near[1 + i, 1 + j] = math.exp(-squared / (2 * deviation * deviation))
    outputs, weights = [], []
    for k, v in zip(_per_head(block, tokens, "k"), _per_head(block, tokens, "v")):
        weight = torch.softmax(k @ k.T / math.sqrt(k.shape[1]) + near, dim=1)[1:]
        weights.append(weight[:, 1:])
        outputs.append(weight @ v if attention is None else attention @ v[1:])
    return _features(visual, projected(block, torch.cat(outputs, 1))), torch.stack(weights).mean(0)


@torch.no_grad()
def proxyclip(model, pixels, features, attention=None, beta=1.2, gamma=3.0):
    """features: [N, D] of the outside encoder on CLIP's grid."""
    visual = model.visual
    x = tokens_before_the_blocks(visual, pixels, "proxyclip")
    *earlier, block = visual.transformer.resblocks
    for other in earlier:
        x = run(other, x)
    count = len(features)
    cosines = torch.empty(count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            cosines[i, j] = features[i] @ features[j] / (features[i].norm() * features[j].norm())
    shifted = (cosines - beta * cosines.mean()) * gamma
    weight = torch.zeros_like(cosines)
    for i in range(count):
        kept = [j for j in range(count) if shifted[i, j] >= 0] or [i]  # the released code has NaN where there is none
        total = sum(math.exp(shifted[i, j]) for j in kept)
        for j in kept:
            weight[i, j] = math.exp(shifted[i, j]) / total
    used = weight if attention is None else attention
    heads = [used @ v[1:] for v in _per_head(block, block.ln_1(x), "v")]
    return _features(visual, projected(block, torch.cat(heads, 1))), weight


def _outliers(patches, neighbours=30, contamination=0.05):
    """Patches of the largest local outlier factor, as the released code computes it."""
    count = len(patches)
    if count < neighbours + 2:
        return []
    nearest, furthest = [], []
    for i in range(count):
        squared = [float(((patches[i] - patches[j]) ** 2).sum()) for j in range(count)]
        order = sorted((j for j in range(count) if j != i), key=squared.__getitem__)[:neighbours]
        nearest.append(order)
        # reachability: never less than a patch's own distance to its last neighbour, so always that
        furthest.append(sum(max(squared[j], squared[order[-1]]) for j in order) / neighbours)
    density = [1 / reach for reach in furthest]
    factor = torch.tensor([sum(density[j] for j in nearest[i]) / neighbours / density[i] for i in range(count)])
    ranked = sorted(factor.tolist())
    place = (1 - contamination) * (count - 1)
    low = math.floor(place)
    threshold = ranked[low] + (place - low) * (ranked[min(low + 1, count - 1)] - ranked[low])
    return [i for i in range(count) if float(factor[i]) > threshold]


def _repaired(patches, outliers, rows, columns):
    repaired = patches.clone()
    for i in outliers:
        row, column = divmod(i, columns)
        around = [
            patches[r * columns + c]
            for r in range(max(row - 1, 0), min(row + 2, rows))
            for c in range(max(column - 1, 0), min(column + 2, columns))
            if r * columns + c not in outliers
        ]
        if around:
            repaired[i] = sum(around) / len(around)
    return repaired


def _similar(patches, threshold=None):
    x = patches / patches.norm(dim=1, keepdim=True)
    cosines = x @ x.T
    if threshold is None:
        return cosines
    kept = torch.where(cosines < threshold, torch.zeros_like(cosines), cosines)
    return kept / kept.sum(1, keepdim=True)


@torch.no_grad()
def scclip(model, pixels, attention=None):
    """12 blocks: similarities after the 9th and the 4th, the sum of 4 to 10; 3 blocks: 2nd, 1st, 1 and 2."""
    visual = model.visual
    rows, columns = pixels.shape[1] // 16, pixels.shape[2] // 16
    outputs = [tokens_before_the_blocks(visual, pixels, "scclip")]
    *earlier, block = visual.transformer.resblocks
    for other in earlier:
        outputs.append(run(other, outputs[-1]))
    middle, early, fused = {12: (9, 4, range(4, 11)), 3: (2, 1, (1, 2)), 1: (0, 0, (0,))}[len(outputs)]
    last = outputs[-1]
    outliers = _outliers(last[1:])
    of_middle = _repaired(outputs[middle][1:], outliers, rows, columns)
    first = _similar(of_middle, 0.4) @ _repaired(last[1:], outliers, rows, columns)
    second = sum(outputs[i] for i in fused)
    shifted = 3 * (_similar(of_middle) - _similar(of_middle).mean())
    shared = torch.softmax(torch.where(shifted < 0, torch.full_like(shifted, -math.inf), shifted), 1)
    after = _similar(outputs[early][1:], 0.4)
    total, weights = 0, []
    for patches, cls_token in ((first, last[0]), (second[1:], second[0])):
        tokens = block.ln_1(patches)
        attended = []
        for k, v in zip(_per_head(block, tokens, "k"), _per_head(block, tokens, "v")):
            own = (shared + torch.softmax(k @ k.T / math.sqrt(k.shape[1]), 1)) / 2
            weights.append(after @ own)
            attended.append(own @ v if attention is None else attention @ v)
        output = projected(block, torch.cat(attended, 1)) + 0.3 * cls_token
        total = total + (after @ output if attention is None else output)
    return _features(visual, total), torch.stack(weights).mean(0), outliers


def on_another_grid(features, rows, columns):
    """[D, h', w'] -> [N, D] of a grid of rows and columns, bilinear."""
    resized = functional.interpolate(features[None], size=(rows, columns), mode="bilinear", align_corners=False)[0]
    return resized.flatten(1).T
