"""The segmenter's knobs, checked."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdam_fast import graphs
from cdam_fast.arguments import MapOptions, check_backend, check_positive, plain, working_dtype
from cdam_fast.arguments import check_options as check_map_options
from cdam_fast.constants import scaled_grid
from cdam_fast.models import Tower
from cdam_fast.segmentation.resize import RESIZES

THRESHOLDS_OVER = ("image", "window", "last_window")

_MAP_DEFAULTS: dict[str, Any] = {**MapOptions()._asdict(), "backend": "auto"}


class Options(NamedTuple):
    """As the arguments of `CDAMSegmenter`, with alpha chosen."""

    cdam: bool
    augmented_prompts: bool
    background: str | float | None
    threshold_over: str
    alpha: float
    logit_scale: float
    short_side: int
    window: int
    stride: int
    resize: str
    long_side: int | None
    area_threshold: float | None
    batch_size: int
    graph: bool
    refine: bool
    amp: bool
    map: dict[str, Any]


def check_options(
    tower: Tower,
    *,
    cdam: object,
    augmented_prompts: object,
    background: object,
    threshold_over: object,
    alpha: object,
    logit_scale: object,
    short_side: object,
    window: object,
    stride: object,
    resize: object,
    long_side: object,
    area_threshold: object,
    batch_size: object,
    graph: object,
    refine: object,
    amp: object,
    device: object,
    map_options: dict[str, Any],
) -> Options:
    """Every knob by its name, before any work is done."""
    threshold_over = _one_of("threshold_over", threshold_over, THRESHOLDS_OVER)
    resize = _one_of("resize", resize, RESIZES)
    sides = {"short_side": short_side, "window": window, "stride": stride, "batch_size": batch_size}
    checked = {name: _whole(name, value) for name, value in sides.items()}
    for side, patch in zip(["height", "width"], tower.patch):
        if checked["window"] % patch:
            raise ValueError(f"window: got {checked['window']} pixels, takes a multiple of the patch's {side}, {patch}")
    if checked["window"] > checked["short_side"]:
        raise ValueError(f"window: got {checked['window']} pixels, takes at most short_side, {checked['short_side']}")
    if checked["stride"] > checked["window"]:
        raise ValueError(
            f"stride: got {checked['stride']} pixels, takes at most window, {checked['window']}: pixels between "
            "windows would have no label"
        )
    if long_side is not None:
        long_side = _whole("long_side", long_side)
        if long_side < checked["short_side"]:
            raise ValueError(f"long_side: got {long_side} pixels, takes at least short_side, {checked['short_side']}")
    options = _map(tower, checked["window"], map_options)
    with_map = check_flag("cdam", cdam)
    return Options(
        cdam=with_map,
        augmented_prompts=check_flag("augmented_prompts", augmented_prompts),
        background=_background(background),
        threshold_over=threshold_over,
        resize=resize,
        long_side=long_side,
        area_threshold=_area_threshold(area_threshold),
        alpha=check_positive("alpha", (2.0 if tower.patch == (32, 32) else 2.5) if alpha is None else alpha),
        logit_scale=check_positive("logit_scale", logit_scale),
        graph=_graph(graph, with_map, options["backend"], tower.device if device is None else check_device(device)),
        refine=check_flag("refine", refine),
        amp=check_flag("amp", amp),
        map=options,
        **checked,
    )


def _graph(graph: object, cdam: bool, backend: str, device: torch.device) -> bool:
    """Whether the second pass goes by graphs; what the kernels refuse is said later, when the model is in place."""
    if not check_flag("graph", graph):
        return False
    if not cdam:
        raise ValueError("graph: got True with cdam=False, takes cdam=True: the map is what graphs are recorded of")
    if backend not in ("auto", "triton"):
        raise ValueError(f"graph: got True with backend={backend!r}, takes 'auto' or 'triton'")
    if device.type not in graphs.GRAPH_DEVICES:
        raise ValueError(f"graph: got True for a model on {device}, takes one on a CUDA device: no other has graphs")
    return True


def check_flag(name: str, value: object) -> bool:
    """True or False, NumPy's included."""
    value = plain(value)
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}, takes True or False")
    return value


def check_device(device: object) -> torch.device:
    """A device by its name or as it is; None is the CPU."""
    takes = "takes None, a torch.device or its name, such as 'cuda' or 'cuda:1'"
    if not isinstance(device, (str, torch.device, type(None))):
        raise TypeError(f"device: got {device!r}, {takes}")
    try:
        return torch.device("cpu" if device is None else device)
    except RuntimeError:
        raise ValueError(f"device: got {device!r}, {takes}") from None


def _one_of(name: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known or not isinstance(value, str):
        raise ValueError(f"{name}: got {value!r}, takes one of {', '.join(map(repr, known))}")
    return value


def _whole(name: str, value: object) -> int:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: got {value!r}, takes a whole number")
    if value < 1:
        raise ValueError(f"{name}: got {value}, takes a whole number from 1")
    return value


def _background(background: object) -> str | float | None:
    takes = "takes 'entropy', a probability, or None"
    background = plain(background)
    if background is None or background == "entropy":
        return "entropy" if background == "entropy" else None
    if isinstance(background, bool) or not isinstance(background, (int, float)):
        raise TypeError(f"background: got {background!r}, {takes}")
    if not 0 <= background <= 1:
        raise ValueError(f"background: got {background}, {takes} from 0 to 1")
    return float(background)


def _area_threshold(share: object) -> float | None:
    share = plain(share)
    if share is not None and (isinstance(share, bool) or not isinstance(share, (int, float))):
        raise TypeError(f"area_threshold: got {share!r}, takes None or a share from 0 to 1")
    if share is not None and not 0 <= share < 1:
        raise ValueError(f"area_threshold: got {share}, takes a share from 0, below 1")
    return None if share is None else float(share)


def _map(tower: Tower, window: int, map_options: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(map_options) - set(_MAP_DEFAULTS))
    if unknown:
        raise TypeError(f"{unknown[0]}: no argument of CDAMSegmenter; the map's are {', '.join(_MAP_DEFAULTS)}")
    options = _MAP_DEFAULTS | map_options
    check_backend(options["backend"])
    grid = torch.empty(1, window // tower.patch[0], window // tower.patch[1], device="meta")
    check_map_options(grid, MapOptions(**{name: options[name] for name in MapOptions._fields}))
    return options


def check_no_background(options: Options) -> None:
    """What options want of a list of classes without background."""
    if options.area_threshold is not None:
        takes = 'takes None where class_names has no class "background" and background_class is None'
        raise ValueError(f"area_threshold: got {options.area_threshold}, {takes}")
    if options.background is not None:
        warnings.warn(
            'background: the threshold is off, as class_names has no class "background"; give one, '
            "background_class, or background=None",
            stacklevel=3,
        )


def leaves_patches(options: Options, grid: tuple[int, int]) -> bool:
    """Whether a patch grid has a patch, at every scale of the map where there is one."""
    scales = options.map["scales"] if options.cdam else (1.0,)
    return all(min(scaled_grid(*grid, float(scale))) > 0 for scale in scales)


def normalisation(tower: Tower, image_mean: object, image_std: object) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pixels, ``[3, 1, 1]`` each: as given, or the model's own, or its kind's.

    Raises:
        TypeError, ValueError: anything but three finite numbers, positive ones for the deviation.
    """
    dtype = working_dtype(tower.dtype)
    tensors = []
    for name, given in (("image_mean", image_mean), ("image_std", image_std)):
        values = check_channels(name, tower.statistics(name) if given is None else given)
        tensors.append(torch.tensor(values, dtype=dtype, device=tower.device).view(3, 1, 1))
    mean, deviation = tensors
    return mean, deviation


def check_channels(name: str, value: object) -> list[float]:
    """Three finite numbers, of a standard deviation positive ones."""
    takes = f"takes three {'positive' if name == 'image_std' else 'finite'} numbers, of red, green and blue in [0, 1]"
    value = value.tolist() if isinstance(value, Tensor) else plain(value)
    numbers = [plain(number) for number in value] if isinstance(value, (list, tuple)) else [None]
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers):
        raise TypeError(f"{name}: got {value!r}, {takes}")
    channels = [float(number) for number in numbers if isinstance(number, (int, float))]
    low = 0.0 if name == "image_std" else -math.inf
    if len(channels) != 3 or not all(low < number < math.inf for number in channels):
        raise ValueError(f"{name}: got {value!r}, {takes}")
    return channels
