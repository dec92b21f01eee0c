"""Train the tiny CLIP on generated scenes and their regions: ``python benchmarks/tiny_train.py cdam_fast/data/tiny``.

Writes the weights (float16 safetensors) and the log beside the model configuration of that name. Contrastive, as CLIP:
each scene against each caption of a batch, and each region against each caption of a region, where a caption that
happens to be true of another one is no negative. The logit scale stays at 100, what CLIP's rose to.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file
from tiny_regions import (
    LOOK_SHARE,
    SHAPE_SHARE,
    draw_batch,
    encode,
    make_shelf,
    some_patches,
    true_of_regions,
    true_of_scenes,
)
from tiny_scenes import CLASSES
from torch.nn import functional

SEED = 0
WORKERS = 2
"""Processes of one thread each, which average their gradients."""
LOGIT_SCALE = 100


class Size(NamedTuple):
    """Of scenes, of the grid that they are trained at; in the first stage and in the second."""

    scenes: int
    share: tuple[float, float]
    """Of the steps."""
    dropped: tuple[float, float]
    """Share of the patches that is left out."""
    batch: tuple[int, int]


SIZES = {
    112: Size(4000, (0.45, 0.25), (0.5, 0.0), (64, 64)),
    160: Size(1600, (0.25, 0.25), (0.6, 0.0), (48, 32)),
    224: Size(1600, (0.3, 0.5), (0.75, 0.0), (32, 16)),
}
RATE = (2e-3, 1e-3)
FIRST_STAGE = 23 / 34
"""Share of the time. The second stage shows all patches, and half of the regions with equal attention to each."""
EVEN = (0.0, 0.5)
SHARPER = 2
"""Factor of the last block's query and key weights at the start of the second stage: self-self attention was so flat
that ClearCLIP's own gave half of a shape's row to the ground."""
BALANCE = 3


def text_features(model, tokenizer, captions):
    """``[M, D]`` L2-normalised."""
    tokens = tokenizer(captions)
    length = int(tokens.argmax(-1).max()) + 1  # the text tower is causal: what follows the longest caption is padding
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return functional.normalize(x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection, dim=-1)


def contrastive(images, texts, true):
    """The mean of both directions' cross-entropy of ``[K, D]`` each; true ``[K captions, K images]``."""
    logits = LOGIT_SCALE * images @ texts.T
    logits = logits.masked_fill(true.T & ~torch.eye(len(images), dtype=torch.bool), -torch.inf)
    right = torch.arange(len(images))
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


def losses(model, tokenizer, batch, rng, dropped, even):
    """Of the scenes and of the regions."""
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    captions, said = zip(*(scene.caption(rng, templates[rng.integers(len(templates))]) for scene in batch.scenes))
    of_regions = [thing.said(rng, SHAPE_SHARE, LOOK_SHARE) for thing in batch.things]
    words = [templates[rng.integers(len(templates))](thing.words()) for thing in of_regions]
    room = model.visual.grid_size[0] - batch.masks.shape[-1]
    place = rng.integers(room + 1, size=2)
    masks = some_patches(batch.masks, rng)
    scenes, regions = encode(model.visual, batch, masks, place, rng, dropped, even)
    texts = text_features(model, tokenizer, [*captions, *words])
    count = len(scenes)
    return (
        contrastive(scenes, texts[:count], true_of_scenes(said, batch.scenes)),
        contrastive(regions, texts[count:], true_of_regions(of_regions, batch.things)),
    )


@torch.no_grad()
def accuracy(model, tokenizer, shelf):
    """Share of held-out shapes whose region is most similar to the word for it, of the nine."""
    texts = text_features(model, tokenizer, [f"a photo of a {word}." for word in CLASSES])
    rng, right, total = np.random.default_rng(0), 0, 0
    for start in range(0, len(shelf.scenes), 16):
        batch = draw_batch(shelf, list(range(start, min(start + 16, len(shelf.scenes)))), rng)
        _, regions = encode(model.visual, batch, batch.masks, (0, 0), rng)
        found = (regions @ texts.T).argmax(-1).tolist()
        shapes = [(CLASSES[i], thing.shape) for i, thing in zip(found, batch.things) if thing.shape != "background"]
        right, total = right + sum(one == other for one, other in shapes), total + len(shapes)
    return right / total


def create(path):
    """An untrained model, and its tokenizer."""
    open_clip.add_model_config(path.with_suffix(".json"))
    model = open_clip.create_model(path.name)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(LOGIT_SCALE))
    model.logit_scale.requires_grad_(False)
    return model, open_clip.get_tokenizer(path.name)


def save(model, path):
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, path.with_suffix(".safetensors"))


def prepared(options):
    """Model, tokenizer and optimiser, as every worker makes them."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model, tokenizer = create(options.model)
    # CDAM's rows sum to ten and more: a bias, which is not multiplied by that, would be lost there
    model.visual.transformer.resblocks[-1].attn.out_proj.bias.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return model, tokenizer, trained, torch.optim.AdamW(groups, betas=(0.9, 0.98))


def averaged(trained, numbers):
    """Gradients and some numbers, in place, over the workers."""
    flat = torch.cat([p.grad.flatten() for p in trained] + [numbers])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    torch.nn.utils.vector_to_parameters(flat[: -len(numbers)], [p.grad for p in trained])
    return flat[-len(numbers) :]


def sharpen(model):
    """The start of the second stage."""
    attention = model.visual.transformer.resblocks[-1].attn
    with torch.no_grad():
        for part in (attention.in_proj_weight, attention.in_proj_bias):
            part[: 2 * attention.embed_dim] *= SHARPER


def balance(model):
    """At the end: the last block's queries times `BALANCE` and its keys divided by it, which changes no output of CLIP.

    Key-key attention, of SCLIP, was misleading: alone it gave 10 mIoU, query-query 51. Small keys make it flat.
    """
    attention = model.visual.transformer.resblocks[-1].attn
    width = attention.embed_dim
    with torch.no_grad():
        for part in (attention.in_proj_weight, attention.in_proj_bias):
            part[:width] *= BALANCE
            part[width : 2 * width] /= BALANCE


def rate(done, step):
    """Warm-up and a falling cosine; the second stage has its own."""
    warm = min(1, step / 100)
    if done < FIRST_STAGE:
        return RATE[0] * warm * (0.02 + 0.98 * math.cos(math.pi / 2 * done) ** 2)
    return RATE[1] * warm * (0.01 + 0.99 * math.cos(math.pi / 2 * (done - FIRST_STAGE) / (1 - FIRST_STAGE)) ** 2)


def work(rank, options, meeting):
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    model, tokenizer, trained, optimiser = prepared(options)
    rng = np.random.default_rng((SEED, rank))
    patch = model.visual.patch_size[0]
    shelves = {
        side: make_shelf(size.scenes // WORKERS, (SEED, side, rank), side, patch) for side, size in SIZES.items()
    }
    held_out = make_shelf(64, SEED + 1, 224, patch) if rank == 0 else None
    log_file, log = options.model.with_suffix(".log"), []
    if options.second:
        model.load_state_dict({name: part.float() for name, part in load_file(options.second).items()})
        log = options.second.with_suffix(".log").read_text().splitlines()

    def say(line):
        log.append(line)
        print(line, flush=True)  # noqa: T201
        log_file.write_text("\n".join(log) + "\n")

    def report():
        right = accuracy(model, tokenizer, held_out)
        say(
            f"step {step}, {done * options.minutes:.1f} min: loss {smooth[0]:.3f} of scenes, {smooth[1]:.3f} of "
            f"regions, {100 * right:.0f} % of held-out shapes named"
        )
        save(model, options.model)

    if rank == 0:
        say(f"seed {SEED}, {WORKERS} threads, {options.minutes:g} minutes, torch {torch.__version__}")
        for side, size in SIZES.items():
            say(f"side {side}: {size}")
    sides = list(SIZES)
    torch.distributed.barrier()
    begun = FIRST_STAGE if options.second else 0.0
    start, step, smooth, done, stage = time.monotonic(), 0, np.array([3.5, 3.5]), begun, 0
    order = np.random.default_rng(SEED)
    while done < 1:
        if done >= FIRST_STAGE and stage == 0:
            stage = 1
            sharpen(model)
        for group in optimiser.param_groups:
            group["lr"] = rate(done, step)
        side = int(order.choice(sides, p=[size.share[stage] for size in SIZES.values()]))
        shelf, size = shelves[side], SIZES[side]
        chosen = rng.choice(len(shelf.scenes), size.batch[stage] // WORKERS, replace=False)
        batch = draw_batch(shelf, chosen, rng)
        parts = losses(model, tokenizer, batch, rng, size.dropped[stage], EVEN[stage])
        optimiser.zero_grad()
        sum(parts).backward()
        passed = begun + (time.monotonic() - start) / 60 / options.minutes
        *parts, done = averaged(trained, torch.tensor([*(part.item() for part in parts), passed])).tolist()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        smooth += 0.03 * (np.array(parts) - smooth)
        step += 1
        if rank == 0 and (step % 100 == 0 or done >= 1):
            report()
    if rank == 0:
        balance(model)
        save(model, options.model)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="path of the JSON configuration, without its ending")
    parser.add_argument("--minutes", type=float, default=34)
    parser.add_argument(
        "--second", type=Path, metavar="WEIGHTS", help="the second stage only, from what the first left"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (options, Path(folder) / "meeting"), WORKERS)


if __name__ == "__main__":
    main()
