"""Models from files, folders, tags and the hub: equal to what open_clip makes of them, their pixels and activation."""

import collections
import json
import logging
import pickle
import re
import warnings
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from openai_clip import openai_model, original_state
from safetensors.torch import load_file, save_file
from torch import nn

from cdam_fast import CDAMSegmenter
from cdam_fast.segmentation import download, sources
from cdam_fast.segmentation.archive import is_archive, read_archive
from cdam_fast.segmentation.load import load_clip, model_defaults

CPU = torch.device("cpu")
CLIP_MEAN = open_clip.OPENAI_DATASET_MEAN
HALVES, CLIPA = (0.5, 0.5, 0.5), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TOWER = {"width": 64, "layers": 3}
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "head_width": 32, **TOWER},
    "text_cfg": {"context_length": 77, "vocab_size": 1000, "heads": 2, **TOWER, "layers": 2},
}


def changed(**changes):
    """CONFIG with other entries, of both towers by name."""
    parts = {part: CONFIG[part] | changes.pop(part, {}) for part in ("vision_cfg", "text_cfg")}
    return CONFIG | parts | changes


def state_of(config=CONFIG, seed=3):
    torch.manual_seed(seed)
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    config = {name: value for name, value in config.items() if name != "custom_text"}
    return kind(**config).state_dict()


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path):
    """A configuration that open_clip knows too, so that it can load the same."""
    path = write_json(tmp_path / "cdam-loading-test.json", CONFIG)
    open_clip.add_model_config(path)
    return path


def equal_states(model, expected):
    state = model.state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype, name
        assert torch.equal(state[name], value), name


def activations(model):
    """Of both towers."""
    kinds = {type(module) for module in model.modules() if "GELU" in type(module).__name__}
    assert len(kinds) == 1
    return kinds.pop().__name__


# --- whatever open_clip loads


def nested(state):
    return {"epoch": 3, "name": "run", "state_dict": {f"module.{name}": value for name, value in state.items()}}


def in_half(state):
    return {name: value.half() for name, value in state.items()}


def one_dimensional_scale(state):
    return state | {"logit_scale": state["logit_scale"].reshape(1)}


KINDS = {
    "plain": (CONFIG, lambda state: state),
    "module": (CONFIG, lambda state: {f"module.{name}": value for name, value in state.items()}),
    "nested": (CONFIG, nested),
    "half": (CONFIG, in_half),
    "scale": (CONFIG, one_dimensional_scale),
    "larger_image": (changed(vision_cfg={"image_size": 96}), lambda state: state),
    "smaller_image": (changed(vision_cfg={"image_size": 32}), lambda state: state),
    "longer_text": (changed(text_cfg={"context_length": 99}), lambda state: state),
    "shorter_text": (changed(text_cfg={"context_length": 33}), lambda state: state),
}


def write_as_checkpoint(path):
    torch.save(load_file(path), path.with_suffix(".pt"))
    return path.with_suffix(".pt")


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("custom_text", [False, True], ids=["clip", "custom_text"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_open_clip_loads(kind, custom_text, ending, tmp_path):
    """Equal to its create_model, also where the file is of the older layout without a text module."""
    trained, change = KINDS[kind]
    state = change(state_of(trained))
    path = tmp_path / f"weights.{ending}"
    if ending == "pt":
        torch.save(state, path)
    elif kind == "nested":
        pytest.skip("safetensors cannot nest")
    else:
        save_file(state, path)
    name = f"cdam-loading-{'custom' if custom_text else 'test'}"
    json_path = write_json(tmp_path / f"{name}.json", CONFIG | {"custom_text": custom_text})
    open_clip.add_model_config(json_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = open_clip.create_model(name, pretrained=str(path)).state_dict()
        except Exception:  # older versions: text positions of such a model, safetensors
            expected = None
    if expected is None:
        if custom_text and "text" in kind:
            with pytest.raises(ValueError, match="does not fit the model"):
                load_clip(json_path, path, CPU)
            return
        assert ending == "safetensors"
        expected = load_clip(json_path, write_as_checkpoint(path), CPU)[0].state_dict()
    model, _ = load_clip(json_path, path, CPU)
    equal_states(model, expected)
    assert not model.training


def test_compiled_models_prefix(config, tmp_path):
    state = state_of()
    save_file({f"module._orig_mod.{name}": value for name, value in state.items()}, tmp_path / "weights.safetensors")
    equal_states(load_clip(config, tmp_path / "weights.safetensors", CPU)[0], state)


def test_nothing_is_said_of_random_weights(config, tmp_path, caplog, recwarn):
    save_file(state_of(), tmp_path / "weights.safetensors")
    with caplog.at_level(logging.INFO):
        load_clip(config, tmp_path / "weights.safetensors", CPU)
    assert "random" not in caplog.text
    assert not recwarn.list


def test_a_configuration_changes_no_name_of_open_clip(tmp_path):
    before = open_clip.get_model_config("ViT-B-16")
    save_file(state_of(), tmp_path / "weights.safetensors")
    model, _ = load_clip(write_json(tmp_path / "ViT-B-16.json", CONFIG), tmp_path / "weights.safetensors", CPU)
    assert model.visual.output_dim == 32
    assert open_clip.get_model_config("ViT-B-16") == before


@pytest.mark.parametrize(
    "other",
    [
        changed(embed_dim=16),
        changed(vision_cfg={"patch_size": 32}),
        changed(vision_cfg={"layers": 2}),
        changed(vision_cfg={"layers": 4}),
        changed(vision_cfg={"width": 32}),
        changed(text_cfg={"width": 32}),
        changed(text_cfg={"vocab_size": 100}),
    ],
    ids=["embed_dim", "patch", "fewer_layers", "more_layers", "width", "text_width", "vocabulary"],
)
def test_weights_of_another_model(other, config, tmp_path):
    save_file(state_of(other), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"pretrained: .*weights.safetensors does not fit the model: \S"):
        load_clip(config, tmp_path / "weights.safetensors", CPU)


def test_numpys_format_is_refused(config, tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"pretrained: .* is in NumPy's format"):
        load_clip(config, tmp_path / "weights.npz", CPU)


# --- pickled code, by every way in


class Runs:
    def __reduce__(self):
        return (print, ("pickled code ran",))


class RaisesTypeError:
    """A reader that falls back to running code on a TypeError would run what comes next."""

    def __reduce__(self):
        return (collections.OrderedDict, (3,))


@pytest.mark.parametrize("content", [[Runs()], [RaisesTypeError(), Runs()], {"state_dict": {"a": Runs()}}], ids=str)
@pytest.mark.parametrize("way", ["torch", "legacy", "pickle", "archive"])
def test_no_pickled_code_runs(content, way, config, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    if way == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif way == "archive":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", pickle.dumps(content))
            file.writestr("a/code/__torch__.py", "class A(Module):\n  __parameters__ = []\n")
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "torch")
    for name in (config, "ViT-B-16"):
        with pytest.raises(ValueError, match=r"pretrained: .*(would run pickled code|cannot read)"):
            load_clip(name, path, CPU)
    assert "ran" not in capsys.readouterr().out


# --- OpenAI's weights


def saved_as(kind, path):
    """OpenAI's structure with random weights, written as people have it."""
    model = openai_model(vocabulary=1000)
    state = original_state(model)
    if kind == "original":
        torch.save(state, path)
    elif kind == "original_safetensors":
        save_file(state, path)
    elif kind == "archive":
        for name in ("input_resolution", "context_length", "vocab_size"):
            model.register_buffer(name, state[name]) if not hasattr(model, name) else None
        holder = model.float()
        for name in ("context_length", "vocab_size"):
            delattr(holder, name)
            holder.register_buffer(name, state[name])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = (torch.zeros(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.int64))
            torch.jit.save(torch.jit.trace(holder, example, check_trace=False), str(path))
    else:
        plain = {name: value for name, value in state.items() if value.dim() or name == "logit_scale"}
        if kind == "converted":
            plain = {name: value.float() for name, value in plain.items()}
        save_file(plain, path)
    return model


@pytest.mark.parametrize("kind", ["original", "original_safetensors", "archive", "converted", "mixed"])
def test_openais_weights_get_quickgelu(kind, tmp_path, recwarn):
    """Told by what they are; where that is a guess, it is said."""
    json_path = write_json(tmp_path / "model.json", CONFIG)
    path = tmp_path / (
        "weights.safetensors" if kind in ("original_safetensors", "converted", "mixed") else "weights.pt"
    )
    source = saved_as(kind, path)
    recwarn.clear()
    model, _ = load_clip(json_path, path, CPU)
    assert activations(model) == "QuickGELU"
    said = [str(one.message) for one in recwarn.list if "QuickGELU" in str(one.message)]
    assert len(said) == (kind in ("converted", "mixed"))
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    tokens = torch.randint(1000, (2, 77))
    source = source.float()
    with torch.no_grad():
        expected = source.encode_text(tokens), source.encode_image(torch.ones(1, 3, 64, 64))
        torch.testing.assert_close(model.encode_text(tokens), expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.encode_image(torch.ones(1, 3, 64, 64)), expected[1], rtol=1e-4, atol=1e-5)
    recwarn.clear()
    assert activations(load_clip(json_path, path, CPU, quick_gelu=False)[0]) == "GELU"
    assert activations(load_clip(json_path, path, CPU, quick_gelu=True)[0]) == "QuickGELU"
    assert not [one for one in recwarn.list if "QuickGELU" in str(one.message)]


@pytest.mark.parametrize("name", ["ViT-B-16-OpenAI.safetensors", "vit_base_patch16_clip_224.openai/model.safetensors"])
def test_openais_weights_by_name(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_file(state_of(), tmp_path / name)
    with pytest.warns(UserWarning, match="QuickGELU: taken, as the weights of .*safetensors look like OpenAI's"):
        model, _ = load_clip(write_json(tmp_path / "model.json", CONFIG), tmp_path / name, CPU)
    assert activations(model) == "QuickGELU"


@pytest.mark.parametrize("folder", [False, True], ids=["name", "folder"])
def test_a_name_that_says_quickgelu_wins(folder, tmp_path, monkeypatch, recwarn):
    """Over weights that are not OpenAI's, and over a configuration beside them."""
    save_file(state_of(), tmp_path / "weights.safetensors")
    if folder:
        write_json(tmp_path / "open_clip_config.json", {"model_cfg": CONFIG | {"quick_gelu": False}})
    monkeypatch.setattr(
        open_clip, "get_model_config", lambda name: changed(**{"quick_gelu": True} if "quickgelu" in name else {})
    )
    recwarn.clear()
    for name, kind in (("ViT-B-16-quickgelu", "QuickGELU"), ("ViT-B-16", "GELU")):
        assert activations(load_clip(name, tmp_path / "weights.safetensors", CPU)[0]) == kind
    assert not [one for one in recwarn.list if "QuickGELU" in str(one.message)]


@pytest.mark.parametrize("kind", ["float32", "half", "bound_but_float32", "half_but_other_scale"])
def test_other_weights_keep_gelu(kind, tmp_path, recwarn):
    state = state_of()
    if "half" in kind:
        state = {name: value.half() for name, value in state.items()}
    if kind != "float32":
        state["logit_scale"] = torch.tensor(100.0).log().to(torch.float16 if kind == "half" else torch.float32)
    if kind == "half_but_other_scale":
        state["logit_scale"] = torch.tensor(4.6)
    save_file(state, tmp_path / "weights.safetensors")
    model, _ = load_clip(write_json(tmp_path / "model.json", CONFIG), tmp_path / "weights.safetensors", CPU)
    assert activations(model) == "GELU"
    assert not [one for one in recwarn.list if "QuickGELU" in str(one.message)]


@pytest.mark.parametrize("says", [True, False])
def test_a_configuration_that_says_the_activation_wins(says, tmp_path, recwarn):
    saved_as("converted", tmp_path / "weights.safetensors")
    path = write_json(tmp_path / "model.json", CONFIG | {"quick_gelu": says})
    assert activations(load_clip(path, tmp_path / "weights.safetensors", CPU)[0]) == ("QuickGELU" if says else "GELU")
    assert not [one for one in recwarn.list if "QuickGELU" in str(one.message)]


def test_the_archives_tensors_are_its_state_dict(tmp_path):
    saved_as("archive", tmp_path / "weights.pt")
    assert is_archive(tmp_path / "weights.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(str(tmp_path / "weights.pt"), map_location="cpu").state_dict()
    state = read_archive(tmp_path / "weights.pt")
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], value) and state[name].dtype == value.dtype for name, value in expected.items())


def test_a_checkpoint_is_no_archive(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt")
    assert not is_archive(tmp_path / "weights.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    assert not is_archive(tmp_path / "noise.pt")


def test_damaged_archives_are_named(config, tmp_path):
    path = tmp_path / "weights.pt"
    saved_as("archive", path)
    content = bytearray(path.read_bytes())
    generator = np.random.default_rng(0)
    for i in range(15):
        damaged = content.copy()
        start = int(generator.integers(len(damaged) - 4))
        for place in (start, start + 1, int(generator.integers(2000)), len(damaged) - int(generator.integers(1, 3000))):
            damaged[place] = int(generator.integers(256))
        (tmp_path / f"{i}.pt").write_bytes(damaged[: len(damaged) - (i % 3) * 50])
        try:
            load_clip(config, tmp_path / f"{i}.pt", CPU)
        except ValueError as error:
            assert str(error).startswith("pretrained: ")  # noqa: PT017


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
    saved_as("converted", tmp_path / "open_clip_model.safetensors")
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
    assert (options.short_side, options.window, options.stride) == (96, 96, 48)
    assert made(torch.rand(3, 120, 96)).labels.shape == (120, 96)
    model, _ = load_clip("tiny", None, CPU)
    assert options.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()) / 2, rel=1e-4)
    over = CDAMSegmenter.from_pretrained("tiny", class_names=NAMES, logit_scale=50, stride=96)
    assert (over.options.logit_scale, over.options.stride) == (50, 96)


def test_defaults_of_models():
    assert model_defaults("tiny")["window"] == 96
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


def test_a_model_handed_over_is_left_as_it_is():
    model = openai_model()
    for block in (*model.visual.transformer.resblocks, *model.transformer.resblocks):
        block.mlp.gelu = nn.GELU()
    CDAMSegmenter(model, open_clip.get_tokenizer("ViT-B-16"), NAMES, cache_dir=False, templates=[str], **SIZES)
    assert activations(model) == "GELU"
