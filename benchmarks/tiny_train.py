"""Train the tiny CLIP of the tests on generated scenes: ``python benchmarks/tiny_train.py cdam_fast/data/tiny``.

Writes the weights (float16 safetensors) and the log beside the model configuration of that name. Contrastive, as CLIP:
each image against each caption of the batch, where a caption that happens to be true of another image is no negative.
The image's feature is the mean of its patches' (``pool_type: avg``), so that the loss reaches every patch directly.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from tiny_scenes import SHAPES, make_scenes
from torch.nn import functional

SEED = 0
TRAINING, HELD_OUT = 12000, 256


def phrases_true_of(scene, phrases):
    """Whether every phrase (shape, colour or None, pattern or None) fits a thing of the scene; none: an empty one."""
    if not phrases:
        return not scene.things
    return all(
        any(
            thing.shape == shape and colour in (None, thing.colour) and pattern in (None, thing.pattern)
            for thing in scene.things
        )
        for shape, colour, pattern in phrases
    )


def as_pixels(scenes):
    """``[B, 3, side, side]`` normalised."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2) / 255
    return (pixels - mean) / deviation


def loss_of(model, scenes, tokenizer, rng):
    """The mean of both directions' cross-entropy."""
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    captions = [scene.caption(rng, templates[rng.integers(len(templates))]) for scene in scenes]
    tokens = tokenizer([text for text, _ in captions])
    length = int(tokens.argmax(-1).max()) + 1  # the text tower is causal: what follows the longest caption is padding
    state = {
        "positional_embedding": model.positional_embedding[:length],
        "attn_mask": model.attn_mask[:length, :length],
    }
    images, texts, scale = torch.func.functional_call(model, state, (as_pixels(scenes), tokens[:, :length]))
    logits = scale * images @ texts.T
    said = [phrases for _, phrases in captions]
    true = [
        [i != j and phrases_true_of(scene, phrases) for j, phrases in enumerate(said)] for i, scene in enumerate(scenes)
    ]
    logits = logits.masked_fill(torch.tensor(true), -torch.inf)
    right = torch.arange(len(scenes))
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


@torch.no_grad()
def accuracy(model, scenes, tokenizer):
    """Share of held-out scenes of one thing whose shape is the most similar of the eight."""
    single = [scene for scene in scenes if len(scene.things) == 1]
    texts = model.encode_text(tokenizer([f"a photo of a {shape}." for shape in SHAPES]), normalize=True)
    images = model.encode_image(as_pixels(single), normalize=True)
    found = (images @ texts.T).argmax(-1)
    return float(np.mean([SHAPES[i] == scene.things[0].shape for i, scene in zip(found.tolist(), single)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="path of the JSON configuration, without its ending")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    open_clip.add_model_config(options.model.with_suffix(".json"))
    model = open_clip.create_model(options.model.name)
    tokenizer = open_clip.get_tokenizer(options.model.name)
    scenes, held_out = make_scenes(TRAINING, seed=SEED + 1), make_scenes(HELD_OUT, seed=SEED + 2)
    log = [
        f"seed {SEED}, {TRAINING} scenes, batch {options.batch}, peak rate {options.rate}, torch {torch.__version__}"
    ]

    def say(line):
        log.append(line)
        print(line, flush=True)  # noqa: T201

    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    torch.set_flush_denormal(True)
    start, step, smooth = time.monotonic(), 0, math.log(options.batch)

    def report():
        minutes = (time.monotonic() - start) / 60
        right = accuracy(model, held_out, tokenizer)
        say(f"step {step}, {minutes:.1f} min: loss {smooth:.3f}, shape right in {100 * right:.0f} % of held-out scenes")

    while (done := (time.monotonic() - start) / 60 / options.minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = options.rate * min(1, step / 100) * (0.02 + 0.98 * math.cos(math.pi / 2 * done) ** 2)
        batch = [scenes[i] for i in rng.choice(len(scenes), options.batch, replace=False)]
        loss = loss_of(model, batch, tokenizer, rng)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(50))
        smooth += 0.03 * (loss.item() - smooth)
        step += 1
        if step % 100 == 0:
            report()
    report()
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, options.model.with_suffix(".safetensors"))
    options.model.with_suffix(".log").write_text("\n".join(log) + "\n")


if __name__ == "__main__":
    main()
