"""Poisoned memory and fixed seeds for every test, and the recorded maps."""

import os
import signal
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from cdam_fast.compat import TORCH

if not torch.cuda.is_available():  # the kernels then run on CPU tensors; read when their module is imported
    os.environ["TRITON_INTERPRET"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a script starts what runs beside it; children take it over
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).parent / "data"

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite goes in up to four processes where pytest-xdist is there, unless the command says otherwise."""
    options = config.option
    if not config.pluginmanager.hasplugin("xdist") or "PYTEST_XDIST_WORKER" in os.environ:
        return
    unsaid = options.numprocesses is None and options.dist == "no"
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not (options.usepdb or options.collectonly)
    if unsaid and whole and not torch.cuda.is_available():  # processes would share a GPU's memory
        options.numprocesses = min(os.cpu_count() or 1, 4)
        options.dist = "loadfile"  # a file's fixtures are made once
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes to come


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU")
    config.addinivalue_line("markers", "slow: takes long; the first to leave out")
    # warn_only warns of every operation without a deterministic version, which nothing here relies on
    config.addinivalue_line("filterwarnings", "ignore:.*deterministic:UserWarning")


@pytest.fixture(autouse=True)
def poisoned_memory():
    """``torch.empty`` gives NaN, so that an element nobody wrote shows in the result; from torch 2.2 on."""
    if TORCH < (2, 2):
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(autouse=True)
def seeds():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - for code that still draws from the global generator


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The user's cache is left alone; one session shares its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def _recorded(name):
    with np.load(DATA / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope="session")
def golden_single():
    """Maps of the released code in float64 on a 14x14 grid: 7 scales, scale 1 alone, each reduced scale alone."""
    return _recorded("golden_single.npz")


@pytest.fixture(scope="session")
def golden_clip():
    """Rows of the released code's float64 map on a 28x28 grid of a 4-layer CLIP's similarity."""
    return _recorded("golden_clip.npz")


@pytest.fixture(scope="session")
def golden_segmentation():
    """The released code's last block on golden_clip's image: weights, tokens, class logits, threshold."""
    return _recorded("golden_segmentation.npz")


@pytest.fixture(scope="session")
def tiny():
    """Options of the command line for the tiny model, at sides that are quick."""
    return ["--model", "tiny", "--short-side", "96", "--window", "96", "--stride", "48"]


@pytest.fixture(scope="session")
def tokenizer():
    """CLIP's; its package may import Triton, which must not be before the variable above is set."""
    import open_clip

    return open_clip.get_tokenizer("ViT-B-16")
