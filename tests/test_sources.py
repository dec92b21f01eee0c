"""Models by tags, from the hub and folders: their pixels and activation, and what is said where they cannot be."""

import re
import warnings

import open_clip
import pytest
import torch
from loading import CONFIG, CPU, activations, changed, equal_states, known_config, state_of, write_json
from safetensors.torch import save_file

from cdam_fast import CDAMSegmenter
from cdam_fast.segmentation import download, sources
from cdam_fast.segmentation.load import load_clip, model_defaults

CLIP_MEAN = open_clip.OPENAI_DATASET_MEAN
HALVES, CLIPA = (0.5, 0.5, 0.5), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def config(tmp_path):
    return known_config(tmp_path)


# --- tags


def tagged(name, tag, file, monkeypatch):
    """The segmenter of a tag whose download is this file."""
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", lambda *args, **options: str(file))
    monkeypatch.setattr(download, "_in_cache", lambda *both: None)
    return sources.find_source(name, tag)


ACTIVATIONS = [
    ("ViT-B-16", "openai", True),
    ("ViT-B/16", "openai", True),
    ("ViT-B-32", "openai", True),
    ("ViT-L-14-336", "openai", True),
    ("ViT-B-16-quickgelu", "openai", True),
    ("ViT-B-16", "laion2b_s34b_b88k", False),
    ("ViT-B-16", "laion2b-s34b-b88k", False),
    ("ViT-L-14", "laion2b_s32b_b82k", False),
    ("ViT-B-32-quickgelu", "laion400m_e32", True),
]


@pytest.mark.parametrize(("name", "tag", "quick_gelu"), ACTIVATIONS)
def test_the_activation_of_a_tag(name, tag, quick_gelu):
    if not open_clip.get_pretrained_cfg(name.replace("/", "-"), tag):
        pytest.skip("no such tag in this open_clip")
    assert bool(sources.find_source(name, tag).quick_gelu) is quick_gelu


def test_every_tag_has_the_activation_that_open_clip_says():
    for name, tag in open_clip.list_pretrained():
        says = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu")
        if says is None:
            continue
        try:
            source = sources.find_source(name, tag)
        except (ValueError, RuntimeError):  # towers of other kinds
            continue
        assert source.quick_gelu is (says or name.endswith("-quickgelu"))


def test_a_tag_from_download_to_segmenter(config, tmp_path, monkeypatch, capfd):
    """ViT-B-16's place is taken by a small configuration, its download by a file."""
    save_file(state_of(), tmp_path / "open_clip_model.safetensors")
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: changed())
    tagged("ViT-B-16", "openai", tmp_path / "open_clip_model.safetensors", monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = load_clip("ViT-B-16", "openai", CPU)
    assert activations(model) == "QuickGELU"
    assert tuple(model.visual.image_mean) == CLIP_MEAN
    waiting = r"cdam_fast: downloading 'openai' of ViT-B-16 from (huggingface.co|openaipublic.azureedge.net) ...\n"
    assert re.fullmatch(waiting, capfd.readouterr().err)


def test_what_is_in_the_hubs_cache_needs_no_network(tmp_path, monkeypatch, capfd):
    hub = pytest.importorskip("huggingface_hub")
    repository = open_clip.get_pretrained_cfg("ViT-B-16", "laion2b_s34b_b88k")["hf_hub"].strip("/")
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    weights = folder / "snapshots" / "abc" / "open_clip_pytorch_model.bin"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HUGGINGFACE_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", None)
    assert sources.find_source("ViT-B-16", "laion2b_s34b_b88k").weights() == weights
    assert capfd.readouterr().err == ""


LONG = "Connection to the hub failed because " + "of a very long and winding reason " * 20


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (OSError("[Errno -2] Name or service not known"), "[Errno -2] Name or service not known"),
        (OSError("first line\nsecond line"), "first line"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError(LONG), LONG[:100]),
    ],
    ids=["name", "lines", "empty", "long"],
)
def test_weights_that_cannot_be_downloaded(cause, said, monkeypatch, capfd):
    """A line before the wait; then the first cause in whole words."""

    def no_network(*args, **options):
        assert "downloading" in capfd.readouterr().err
        try:
            raise cause
        except Exception as error:
            raise FileNotFoundError(f"Failed to download file, after some time. Last error: {error}") from error

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", no_network)
    monkeypatch.setattr(download, "_in_cache", lambda *both: None)
    with pytest.raises(RuntimeError) as caught:
        load_clip("ViT-B-16", "laion2b_s34b_b88k", CPU)
    message = str(caught.value)
    assert message.startswith(f"pretrained: cannot get 'laion2b_s34b_b88k' of ViT-B-16 ({said}")
    assert message.endswith("; run once with a network, or give the path of its weights in safetensors format")
    assert len(message) < 360
    assert all(word in f"{LONG} {message}" for word in message.split())


# --- mean and std


PIXELS = [
    ("ViT-B-16", "laion2b_s34b_b88k", CLIP_MEAN),
    ("ViT-L-14", "laion2b_s32b_b82k", HALVES),
    ("ViT-L-14", "datacomp_xl_s13b_b90k", CLIP_MEAN),
]


@pytest.mark.parametrize(("name", "tag", "mean"), PIXELS)
def test_the_mean_of_a_tag(name, tag, mean):
    assert tuple(sources.find_source(name, tag).pixels["mean"]) == tuple(mean)


def test_the_mean_of_a_file(tmp_path):
    """As its place in the hub's cache says; of a model with one mean as that; open where there are several."""
    file = tmp_path / "weights.safetensors"
    assert tuple(sources.find_source("ViT-B-16", file).pixels["mean"]) == CLIP_MEAN
    assert sources.find_source("ViT-L-14", file).pixels is None
    cached = tmp_path / "models--laion--CLIP-ViT-L-14-laion2B-s32B-b82K" / "snapshots" / "abc" / "weights.safetensors"
    found = sources.find_source("ViT-L-14", cached)
    assert tuple(found.pixels["mean"]) == HALVES
    assert found.quick_gelu is False
    if "ViT-L-14-CLIPA" in open_clip.list_models():
        try:
            found = sources.find_source("ViT-L-14-CLIPA", file)
        except RuntimeError as error:
            assert "pip install transformers" in str(error)  # noqa: PT017
        else:
            assert (tuple(found.pixels["mean"]), tuple(found.pixels["std"])) == CLIPA


def test_a_file_beside_its_configuration(tmp_path):
    config = open_clip.get_model_config("ViT-L-14")
    write_json(
        tmp_path / "open_clip_config.json",
        {"model_cfg": config | {"quick_gelu": True}, "preprocess_cfg": {"mean": HALVES, "std": HALVES}},
    )
    found = sources.find_source("ViT-L-14", tmp_path / "open_clip_model.safetensors")
    assert (found.pixels["mean"], found.quick_gelu) == (list(HALVES), True)
    other = sources.find_source("ViT-B-16", tmp_path / "open_clip_model.safetensors")
    assert (tuple(other.pixels["mean"]), other.quick_gelu) == (CLIP_MEAN, None)


def test_an_open_mean_is_said(tmp_path, monkeypatch):
    save_file(state_of(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: changed())
    with pytest.warns(UserWarning, match=r"image_mean: CLIP's own is taken, but some weights of ViT-L-14"):
        load_clip("ViT-L-14", tmp_path / "weights.safetensors", CPU)


# --- folders and the hub


def snapshot(folder, config=CONFIG, weights="open_clip_model.safetensors", pixels=HALVES):
    """A repository of the hub, downloaded."""
    content = {"model_cfg": config, "preprocess_cfg": {"mean": list(pixels), "std": list(pixels)}}
    write_json(folder / "open_clip_config.json", content)
    state = state_of(config)
    save_file(state, folder / weights) if weights.endswith("safetensors") else torch.save(state, folder / weights)
    return state


NAMES = ["background", "cat", "dog"]
SIZES = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,), "augmented_prompts": False}
GIVEN = {"text_features": torch.eye(32)[:3], **SIZES}


@pytest.mark.parametrize("spelled", ["{}", "local-dir:{}", "{}/open_clip_config.json"])
@pytest.mark.parametrize(
    "weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "other.pt"]
)
def test_a_snapshot_folder(spelled, weights, tmp_path):
    state = snapshot(tmp_path / "snap", weights=weights)
    made = CDAMSegmenter.from_pretrained(spelled.format(tmp_path / "snap"), class_names=NAMES, **GIVEN)
    assert torch.equal(made.tower.visual.proj, state["visual.proj"])
    image = torch.rand(3, 64, 64)
    torch.testing.assert_close(made.normalise(image), (image - 0.5) / 0.5)


def test_a_folder_as_open_clip_has_it(tmp_path):
    if not hasattr(open_clip.factory, "parse_model_name"):
        pytest.skip("no local-dir: in this open_clip")
    snapshot(tmp_path, CONFIG | {"quick_gelu": True})
    expected = open_clip.create_model(f"local-dir:{tmp_path}")
    model, _ = load_clip(tmp_path, None, CPU)
    equal_states(model, expected.state_dict())
    assert activations(model) == activations(expected) == "QuickGELU"
    assert tuple(model.visual.image_mean) == tuple(expected.visual.image_mean)


def test_the_best_of_several_files(tmp_path):
    state = snapshot(tmp_path)
    torch.save({"not": "these"}, tmp_path / "a.pt")
    torch.save({"not": "these"}, tmp_path / "open_clip_pytorch_model.bin")
    equal_states(load_clip(tmp_path, None, CPU)[0], state)
    (tmp_path / "open_clip_model.safetensors").unlink()
    (tmp_path / "open_clip_pytorch_model.bin").unlink()
    torch.save({"not": "these"}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"pretrained: got None, takes one of the files of .* \(a.pt, b.pt\)"):
        load_clip(tmp_path, None, CPU)
    save_file(state, tmp_path / "c.safetensors")
    equal_states(load_clip(tmp_path, tmp_path / "c.safetensors", CPU)[0], state)
    with pytest.raises(ValueError, match=r"pretrained: got 'openai', takes a file of weights"):
        load_clip(tmp_path, "openai", CPU)


def test_the_hub(tmp_path, monkeypatch):
    state = snapshot(tmp_path)
    asked = []

    def from_hub(repository, filename=None, **options):
        asked.append((repository, filename))
        return str(tmp_path / (filename or "open_clip_model.safetensors"))

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_hf", from_hub)
    model, tokenizer = load_clip("hf-hub:someone/some-model", None, CPU)
    equal_states(model, state)
    assert asked == [("someone/some-model", "open_clip_config.json"), ("someone/some-model", None)]
    assert tuple(model.visual.image_mean) == HALVES
    assert tokenizer(["cat"]).shape == (1, 77)
    with pytest.raises(ValueError, match="pretrained: got 'openai', takes None with hf-hub:someone/some-model"):
        load_clip("hf-hub:someone/some-model", "openai", CPU)


def test_the_hub_without_a_network(monkeypatch, capfd):
    def no_network(*args, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_hf", no_network)
    with pytest.raises(RuntimeError, match=r"model_name: cannot get open_clip_config.json of hf-hub:a/b \(Name or"):
        load_clip("hf-hub:a/b", None, CPU)
    assert "downloading open_clip_config.json of hf-hub:a/b from huggingface.co" in capfd.readouterr().err


def test_the_context_length_of_a_folder_is_its_tokenizers(tmp_path):
    snapshot(tmp_path, changed(text_cfg={"context_length": 33}))
    assert load_clip(tmp_path, None, CPU)[1](["cat"]).shape == (1, 33)


# --- names that cannot be


TRANSFORMERS = changed(text_cfg={"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"})


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda folder: ("ViT-B-16", None), ValueError, "pretrained: got None, takes a file of weights or a tag of"),
        (lambda folder: ("ViT-B-16", ""), ValueError, "pretrained: got '', takes a file of weights or a tag of"),
        (lambda folder: ("ViT-B-16", 3), TypeError, "pretrained: got int, takes a tag or a file"),
        (lambda folder: ("ViT-B-16", "a\0b"), ValueError, "pretrained: got 'a"),
        (lambda folder: ("ViT-B-16", "a" * 5000), ValueError, "pretrained: got 'aaa"),
        (lambda folder: (None, "openai"), TypeError, "model_name: got NoneType"),
        (lambda folder: ("VIT/B/61", "openai"), ValueError, "model_name: got 'VIT/B/61', takes 'tiny', a model of"),
        (lambda folder: (folder, None), ValueError, "model_name: .* is no folder with a file open_clip_config.json"),
        (lambda folder: (f"local-dir:{folder}/no", None), ValueError, "model_name: .*no is no folder with a file"),
        (lambda folder: ("RN50", "openai"), ValueError, "model_name: the image tower of RN50 is a ResNet"),
        (lambda folder: ("EVA02-B-16", "merged2b_s8b_b131k"), ValueError, "model_name: the image tower of EVA02-B-16"),
        (
            lambda folder: (write_json(folder / "a.json", CONFIG), None),
            ValueError,
            "pretrained: got None, takes a file of weights for",
        ),
        (
            lambda folder: (write_json(folder / "a.json", [1]), "w.pt"),
            ValueError,
            "is no open_clip model configuration",
        ),
        (
            lambda folder: (write_json(folder / "a.json", CONFIG | {"text_cfg": 3}), "w.pt"),
            ValueError,
            "is no open_clip model configuration",
        ),
        (
            lambda folder: (write_json(folder / "open_clip_config.json", {"model_cfg": CONFIG}), None),
            ValueError,
            "pretrained: got None, takes one of the files of .*no file of weights",
        ),
    ],
)
def test_bad_names(make, error, named, tmp_path):
    with pytest.raises(error, match=named):
        load_clip(*make(tmp_path), CPU)


def test_a_configuration_that_open_clip_cannot_make(tmp_path):
    save_file(state_of(), tmp_path / "weights.safetensors")
    path = write_json(tmp_path / "model.json", changed(vision_cfg={"no_such_key": 1}))
    with pytest.raises(ValueError, match=r"model_name: open_clip .* cannot make .*model.json: .*no_such_key"):
        load_clip(path, tmp_path / "weights.safetensors", CPU)


def test_a_text_tower_that_needs_transformers(tmp_path, monkeypatch):
    find = sources.importlib.util.find_spec
    monkeypatch.setattr(
        sources.importlib.util, "find_spec", lambda name, *rest: None if name == "transformers" else find(name, *rest)
    )
    path = write_json(tmp_path / "model.json", TRANSFORMERS)
    with pytest.raises(RuntimeError, match=r"model_name: .* has a text tower of transformers \(roberta-base\), which"):
        load_clip(path, tmp_path / "weights.safetensors", CPU)
    for name in ("roberta-ViT-B-32", "xlm-roberta-base-ViT-B-32"):
        with pytest.raises(RuntimeError, match=f"model_name: {name} has a text tower of transformers .*pip install"):
            load_clip(name, "laion2b_s12b_b32k", CPU)


def test_a_tokenizer_that_cannot_be_had(config, tmp_path, monkeypatch):
    def no_tokenizer(*args, **options):
        raise OSError("We couldn't connect")

    save_file(state_of(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(open_clip.tokenizer, "SimpleTokenizer", no_tokenizer)
    with pytest.raises(RuntimeError, match=r"model_name: cannot get the tokenizer of .*: We couldn't connect"):
        load_clip(config, tmp_path / "weights.safetensors", CPU)


@pytest.mark.parametrize(("device", "error"), [("gpu", ValueError), (3, TypeError), ("cuda:x", ValueError)])
def test_bad_devices(device, error):
    with pytest.raises(error, match="device: got"):
        CDAMSegmenter.from_pretrained("tiny", class_names=NAMES, device=device)


def test_class_names_are_needed():
    with pytest.raises(TypeError, match="class_names: got None"):
        CDAMSegmenter.from_pretrained("tiny")


# --- the tiny model


def test_the_tiny_model_by_name():
    made = CDAMSegmenter.from_pretrained("tiny", class_names=["background", "a circle", "a star"])
    options = made.options
    assert (options.short_side, options.window, options.stride) == (224, 224, 112)
    assert made(torch.rand(3, 120, 96)).labels.shape == (120, 96)
    model, _ = load_clip("tiny", None, CPU)
    half = float(model.logit_scale.detach().exp()) / 2  # its logarithm is stored in float16
    assert options.logit_scale == pytest.approx(half, rel=1e-3)
    over = CDAMSegmenter.from_pretrained("tiny", class_names=NAMES, logit_scale=20, stride=96)
    assert (over.options.logit_scale, over.options.stride) == (20, 96)


def test_defaults_of_models():
    assert model_defaults("tiny")["window"] == 224
    assert model_defaults("ViT-B-16") == {}
    model_defaults("tiny").clear()
    assert model_defaults("tiny")


def test_other_weights_for_the_tiny_configuration(tmp_path):
    model, _ = load_clip("tiny", None, CPU)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    equal_states(load_clip("tiny", tmp_path / "weights.safetensors", CPU)[0], state)
    with pytest.raises(ValueError, match="pretrained: got 'openai', takes a file of weights"):
        load_clip("tiny", "openai", CPU)
