"""Models as people have them: of OpenAI's package, of forks, inside wrappers; taken, or refused by name."""

import copy

import open_clip
import pytest
import torch
from openai_clip import in_half_precision, openai_model
from other_models import Adapted
from torch import nn
from towers import WRITTEN_OUT, plain_features, small_model

from cdam_fast import CDAMSegmenter
from cdam_fast.compat import refusal_of_dtype
from cdam_fast.models import Tower, dense_features, text_features, unwrap

every_base = pytest.mark.parametrize("base", WRITTEN_OUT)
PROMPTS = ["a photo of a cat.", "sky", "a photo of a dark blue potted plant near a dining table."]
SIZES = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,)}
NAMES = ["background", "cat", "dog", "sofa"]
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")


def as_open_clip(model):
    """The same weights in open_clip's own classes."""
    state = model.state_dict()
    vision = {"image_size": 64, "patch_size": 16, "head_width": 32, "width": 64, "layers": 3}
    text = {"context_length": 77, "vocab_size": 49408, "heads": 2, "width": 64, "layers": 2}
    other = open_clip.CLIP(32, vision, text, quick_gelu=True).eval()
    other.load_state_dict(state)
    return other


# --- OpenAI's package


@every_base
@pytest.mark.parametrize("size", [(64, 64), (96, 32)], ids=["trained", "other"])
def test_openais_own_model(base, size):
    model = openai_model().double()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()
    pixels = torch.randn(2, 3, *size)
    expected = dense_features(as_open_clip(openai_model()), pixels, base)
    torch.testing.assert_close(dense_features(openai_model(), pixels, base), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(dense_features(model, pixels.double(), base).float(), expected, rtol=0, atol=1e-4)


def test_openais_own_model_segments_as_open_clips(tokenizer):
    image = torch.rand(3, 64, 80)
    options = {"templates": ["a photo of a {}.".format], "cache_dir": False, "augmented_prompts": False, **SIZES}
    one, other = (CDAMSegmenter(m, tokenizer, NAMES, **options) for m in (openai_model(), as_open_clip(openai_model())))
    torch.testing.assert_close(one.texts.features, other.texts.features, rtol=0, atol=1e-5)
    torch.testing.assert_close(one(image).word_logits, other(image).word_logits, rtol=0, atol=1e-5)


@every_base
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_openais_own_model_in_half_precision(base, dtype):
    """Its norms cast to float32, their weights are float32, and they stay so in a copy."""
    if refusal_of_dtype(dtype, "cpu"):
        pytest.skip("refused by name")
    pixels = torch.randn(1, 3, 64, 96)
    expected = dense_features(openai_model(), pixels, base)
    bound = 0.02 if dtype == torch.float16 else 0.15
    mixed = in_half_precision(openai_model(), dtype)
    assert (dense_features(mixed, pixels, base) - expected).norm(dim=-1).max() < bound
    given = {"text_features": torch.eye(32)[:4], "augmented_prompts": False, "base": base}
    made = CDAMSegmenter(openai_model(), None, NAMES, dtype=dtype, **given, **SIZES)
    assert made.tower.visual.ln_post.weight.dtype == torch.float32
    similarity = made.base_similarity(pixels)
    torch.testing.assert_close(similarity.flatten(2).mT, expected[..., :4], rtol=0, atol=bound)


def test_open_clips_own_mixed_precision_in_another_dtype():
    model = open_clip.CLIP(
        32,
        {"image_size": 64, "patch_size": 16, "head_width": 32, "width": 64, "layers": 2},
        {"context_length": 8, "vocab_size": 16, "heads": 2, "width": 64, "layers": 1},
        cast_dtype=torch.bfloat16,
    ).eval()
    pixels = torch.randn(1, 3, 64, 64)
    given = {"text_features": torch.eye(32)[:4], "augmented_prompts": False}
    made = CDAMSegmenter(model, None, NAMES, dtype=torch.bfloat16, **given, **SIZES)
    expected = dense_features(model, pixels)[..., :4]
    torch.testing.assert_close(made.base_similarity(pixels).flatten(2).mT, expected, rtol=0, atol=0.15)


def test_torchscript_is_refused():
    with pytest.raises(TypeError, match="model: got TorchScript, takes a CLIP of open_clip or of OpenAI's clip"):
        Tower(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)))


def test_another_model_of_transformers_is_refused():
    kind = type("BlipModel", (nn.Module,), {"__module__": "transformers.models.blip.modeling_blip"})
    with pytest.raises(TypeError, match="model: got BlipModel of transformers, takes a CLIP of open_clip"):
        Tower(kind())


# --- forks


class ForkedBlock(nn.Module):
    """A block that takes more than its tokens, first of all tokens first, as the forks of 2023 and 2024 have it."""

    def __init__(self, block):
        super().__init__()
        self.attn, self.ln_1, self.mlp, self.ln_2 = block.attn, block.ln_1, block.mlp, block.ln_2

    def forward(self, q_x, k_x=None, v_x=None, attn_mask=None, model_type=None, ignore_residual=False):
        x = self.ln_1(q_x)
        x = q_x + self.attn(x, x, x, need_weights=False, attn_mask=attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class ForkedTransformer(nn.Module):
    def __init__(self, transformer):
        super().__init__()
        self.resblocks = nn.ModuleList(ForkedBlock(block) for block in transformer.resblocks)

    def forward(self, x, attn_mask=None, model_type="ClearCLIP", ignore_residual=True):
        for block in self.resblocks:
            x = block(x, attn_mask=attn_mask, model_type=model_type, ignore_residual=ignore_residual)
        return x


def forked(model):
    """No layer scale, no grid_size, more arguments, tokens first whatever the version."""
    other = copy.deepcopy(model)
    for block in other.visual.transformer.resblocks:
        block.attn.batch_first = False
    other.visual.transformer = ForkedTransformer(other.visual.transformer)
    del other.visual.grid_size
    return other


@every_base
def test_a_fork(base, tokenizer):
    model = small_model()
    pixels = torch.randn(2, 3, 64, 96)
    expected = torch.stack([plain_features(model, image, base) for image in pixels])
    torch.testing.assert_close(dense_features(forked(model), pixels, base), expected, rtol=0, atol=1e-5)
    options = {"templates": ["a photo of a {}.".format], "cache_dir": False, "augmented_prompts": False, **SIZES}
    image = torch.rand(3, 64, 80)
    one, other = (CDAMSegmenter(m, tokenizer, NAMES, base=base, **options)(image) for m in (model, forked(model)))
    torch.testing.assert_close(other.word_logits, one.word_logits, rtol=0, atol=1e-5)


def test_position_embeddings_of_no_grid():
    model = small_model()
    del model.visual.grid_size
    model.visual.positional_embedding = nn.Parameter(torch.zeros(16, 64))
    with pytest.raises(ValueError, match="model: got 16 position embeddings, takes one for the CLS token and"):
        Tower(model)


@pytest.mark.parametrize("part", ["attn", "ln_1", "mlp", "ln_2"])
def test_blocks_without_a_part(part):
    model = small_model()
    delattr(model.visual.transformer.resblocks[1], part)
    with pytest.raises(ValueError, match=f"model: got blocks of type ResidualAttentionBlock without {part}"):
        Tower(model)


def test_other_projections_and_transformers():
    model = small_model()
    model.visual.conv1 = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="model: got an image tower of Linear, Transformer"):
        Tower(model)
    model = small_model()
    model.visual.transformer.resblocks[0].attn = nn.MultiheadAttention(64, 2, bias=False)
    with pytest.raises(ValueError, match="model: got attention without a joint projection and its bias"):
        Tower(model)


# --- wrappers


def compiled_parts(model):
    """Compiled piece by piece, as is done for fast starts."""
    model.visual = torch.compile(model.visual)
    blocks = model.visual._orig_mod.transformer.resblocks
    for i, block in enumerate(blocks):
        blocks[i] = torch.compile(block)
    return model


needs_compile = pytest.mark.skipif(not hasattr(torch, "compile"), reason="no torch.compile before PyTorch 2")
WRAPPERS = {
    "compiled": lambda model: torch.compile(model),
    "compiled_parts": compiled_parts,
    "data_parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "adapted": Adapted,
    "nested": lambda model: nn.DataParallel(Adapted(nn.DataParallel(model))),
}


@pytest.mark.parametrize(
    "wrap", [pytest.param(name, marks=needs_compile if "compiled" in name else ()) for name in WRAPPERS]
)
def test_wrapped_models(wrap, tokenizer):
    options = {"templates": ["a photo of a {}.".format], "cache_dir": False, "augmented_prompts": False, **SIZES}
    image, pixels = torch.rand(3, 64, 80), torch.randn(1, 3, 64, 96)
    expected = CDAMSegmenter(small_model(), tokenizer, NAMES, **options)(image).word_logits
    model = WRAPPERS[wrap](small_model()).eval()
    assert torch.equal(CDAMSegmenter(model, tokenizer, NAMES, **options)(image).word_logits, expected)
    assert torch.equal(dense_features(model, pixels), dense_features(small_model(), pixels))
    assert torch.equal(text_features(model, tokenizer, PROMPTS), text_features(small_model(), tokenizer, PROMPTS))


@pytest.fixture
def one_process():
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("no gloo")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp_blocks", "fully_shard"])
def test_distributed_models_of_one_process(kind, one_process, tokenizer):
    model = small_model()
    model.logit_scale = nn.Parameter(torch.ones(1))  # FSDP takes no scalar
    if kind == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
    elif kind == "fully_shard":
        shard = pytest.importorskip("torch.distributed.fsdp")
        if not hasattr(shard, "fully_shard"):
            pytest.skip("no fully_shard in this PyTorch")
        shard.fully_shard(model.visual, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        wrapped = model
        with pytest.raises(ValueError, match="model: got weights that are divided over processes"):
            Tower(wrapped)
        return
    else:
        fsdp = pytest.importorskip("torch.distributed.fsdp").FullyShardedDataParallel
        try:
            if kind == "fsdp_blocks":
                blocks = model.visual.transformer.resblocks
                for i, block in enumerate(blocks):
                    blocks[i] = fsdp(block, device_id=torch.device("cpu"))
            wrapped = fsdp(model, device_id=torch.device("cpu"))
        except RuntimeError as error:
            pytest.skip(f"FSDP of this PyTorch needs a GPU: {error}")
    pixels = torch.randn(1, 3, 64, 96)
    assert torch.equal(dense_features(wrapped, pixels), dense_features(small_model(), pixels))
    expected = text_features(small_model(), tokenizer, PROMPTS)
    assert torch.equal(text_features(wrapped, tokenizer, PROMPTS), expected)


def test_adapters_inside_the_attention_are_refused_with_advice():
    model = small_model()
    block = model.visual.transformer.resblocks[0]
    adapter = nn.Module()
    adapter.base_layer = block.attn
    block.attn = adapter
    with pytest.raises(ValueError, match=r"model: got attention of type Module, .*; merge the adapters"):
        Tower(model)


def test_unwrapping_leaves_others_alone():
    model = small_model()
    assert unwrap(model) is model
    assert unwrap("model") == "model"
    assert unwrap(None) is None
