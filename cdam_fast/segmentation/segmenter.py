"""CDAM end to end: an image and a list of words to a label for every pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from cdam_fast.attention import cdam_attend
from cdam_fast.compat import OutOfMemoryError
from cdam_fast.graphs import AttendGraphs, check_graph
from cdam_fast.models import Base, Tokenizer, Tower, check_base, of_processor, own_settings, unwrap
from cdam_fast.segmentation.finish import finish
from cdam_fast.segmentation.load import load_clip, model_defaults
from cdam_fast.segmentation.options import (
    check_device,
    check_no_background,
    check_options,
    leaves_patches,
    normalisation,
)
from cdam_fast.segmentation.outcomes import outcomes
from cdam_fast.segmentation.patches import PatchLogits
from cdam_fast.segmentation.preparation import Preparation, Prepared
from cdam_fast.segmentation.result import Segmentation
from cdam_fast.segmentation.texts import build_texts
from cdam_fast.segmentation.windows import Canvas


class CDAMSegmenter(PatchLogits):
    """Open-vocabulary segmentation with CLIP (section 3 of the paper): a base method, with or without CDAM.

    Args:
        model: a CLIP or SigLIP whose image tower is a ViT: of open_clip, of OpenAI's clip, or a ``CLIPModel`` or
            ``SiglipModel`` of transformers; `cdam_fast.models.Tower` lists them. Left as it was found. Its image tower
            is used as it is, or copied where dtype or device differ. What torch.compile, DataParallel,
            DistributedDataParallel or PEFT wrap is unwrapped. One without a text tower
            (``CLIPVisionModelWithProjection``) is taken where all features are given.
        tokenizer: its tokenizer, ``open_clip.get_tokenizer``, a tokenizer of transformers, or a processor of
            transformers, whose mean and deviation of the pixels are then used; None where all features are given.
        class_names: strings or lists of synonyms. Synonyms compete separately in the map, the probabilities and the
            entropy; a class takes their maximum. A word of two classes gives its pixels to the first, with a warning.
        base: ``"maskclip"``, ``"sclip"``, ``"clearclip"``, ``"gem"``, ``"naclip"``, ``"scclip"``, or a `Base` of your
            own, such as `proxyclip` makes of another encoder.
        cdam: False for the base method alone.
        augmented_prompts: add the 80 augmented text prompts to the classes from which the map is made.
        background: ``"entropy"``, the threshold of Eq. 4; a number, a fixed threshold of the probability; None, no
            threshold. A pixel whose best class is less probable becomes the background's class.
        background_class: its index, or one of its words; None is the class that has the word "background". A list
            without one switches the threshold off, with a warning. In the field's benchmarks it is class 0.
        threshold_over: where Eq. 4 takes the largest and smallest entropy: over the patches of all windows of the
            ``"image"``, as the paper says; of each ``"window"``, a pixel's threshold then being the mean of the
            windows that cover it; or of the ``"last_window"``, as the released code does.
        alpha: of Eq. 4. None is 2.5, and 2.0 for a patch of 32 pixels (Table 16).
        logit_scale: factor of the cosines before the softmax over words, in Eq. 4 and for the pixels.
        short_side, window, stride: pixels. An image is resized to this short side, then covered by square windows
            whose logits are averaged where they overlap. The patch divides the window; nothing is padded.
        resize: ``"pillow"``, bicubic and antialiased, in floating point; or ``"mmcv"``, what ``mmcv.imrescale`` does
            and the released code with it: OpenCV's ``INTER_LINEAR`` in 8 bits, equal to the pixel, not antialiased.
        long_side: pixels; None for no limit. An image whose long side would be longer is resized to this one instead
            (the released code has 2048). Where that leaves its short side below the window, its windows are that low,
            and pixels beyond their last whole patch take the logits of those before, as in the released code.
        area_threshold: share of the pixels outside the background that a class has to exceed; one that does not loses
            its pixels to their next best class, before the threshold. None keeps all; SCLIP's code has 0.1 for VOC.
        batch_size: windows that go through the model at once, of whatever images; it changes no result.
        text_features: ``[Q, D]`` of the Q words of class_names, all synonyms in a row, instead of the tokenizer.
        augmented_text_features: ``[A, D]`` of any prompts to augment with, instead of the 80.
        templates: functions from a word to a prompt; None is open_clip's 80 ImageNet templates.
        image_mean, image_std: three numbers each, of red, green and blue in [0, 1]; None is the processor's, or the
            model's own (``model.visual.image_mean``), or CLIP's, 0.5 for SigLIP.
        dtype, device: of the image tower; None is as the model's. The map and the logits are in float32 (float64 for
            float64).
        cache_dir: folder of text features by model, weights, templates and word; True is
            ``$XDG_CACHE_HOME/cdam_fast``, False none.
        graph: replay CUDA graphs of the map, which spares the host most of its time for it: one for each number of
            windows at once, size of window and stream, recorded by its first call; 8 are kept, with their memory.
        refine: move the edges to those of the image: `cdam_fast.refine` of every word's logits at the image's size,
            before the softmax. The paper's numbers are without it (section 4.1).
        amp: run the blocks before the last in bfloat16, on a GPU in float16, by autocast; the rest stays in float32.
        map_options: ``scales``, ``temperature``, ``attention_temperature``, ``metric``, ``order``, ``minmax`` and
            ``backend`` of `cdam_fast.cdam_attention`.

    Raises:
        TypeError, ValueError: an argument that is wrong, by name; text and image features of different lengths.
        RuntimeError: graph=True and a model that the kernels cannot serve.

    Sequences may be NumPy arrays and numbers NumPy's. Autocast, the default device and the default dtype of PyTorch
    change no result. For threads: one segmenter holds no state of a call and may serve several; with graph they take
    turns at the map.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer | None,
        class_names: Sequence[str | Sequence[str]],
        *,
        base: str | Base = "maskclip",
        cdam: bool = True,
        augmented_prompts: bool = True,
        background: str | float | None = "entropy",
        background_class: int | str | None = None,
        threshold_over: str = "image",
        alpha: float | None = None,
        logit_scale: float = 50.0,
        short_side: int = 448,
        window: int = 448,
        stride: int = 224,
        resize: str = "pillow",
        long_side: int | None = None,
        area_threshold: float | None = None,
        batch_size: int = 8,
        text_features: Tensor | None = None,
        augmented_text_features: Tensor | None = None,
        templates: Sequence[Any] | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        cache_dir: str | Path | bool = True,
        graph: bool = False,
        refine: bool = False,
        amp: bool = False,
        **map_options: Any,
    ) -> None:
        tower = Tower(model)
        self.base = check_base(base)
        self.options = check_options(
            tower,
            cdam=cdam,
            augmented_prompts=augmented_prompts,
            background=background,
            threshold_over=threshold_over,
            alpha=alpha,
            logit_scale=logit_scale,
            short_side=short_side,
            window=window,
            stride=stride,
            resize=resize,
            long_side=long_side,
            area_threshold=area_threshold,
            batch_size=batch_size,
            graph=graph,
            refine=refine,
            amp=amp,
            device=device,
            map_options=map_options,
        )
        image_mean = of_processor(tokenizer, "image_mean") if image_mean is None else image_mean
        image_std = of_processor(tokenizer, "image_std") if image_std is None else image_std
        normalisation(tower, image_mean, image_std)  # wrong ones are said before any work
        texts = build_texts(
            unwrap(model),
            tokenizer,
            class_names,
            background_class=background_class,
            embedding_size=tower.embedding_size,
            augmented=self.options.augmented_prompts and self.options.cdam,
            text_features=text_features,
            augmented_text_features=augmented_text_features,
            templates=templates,
            cache_dir=cache_dir,
        )
        tower = tower.to(dtype, device)
        self.tower = tower.autocast() if self.options.amp else tower
        self._mean, self._deviation = normalisation(self.tower, image_mean, image_std)
        self._attend = partial(cdam_attend, **self.options.map)
        if self.options.graph:
            check_graph(self._mean.new_empty(1, 1, *(self.options.window // side for side in self.tower.patch)))
            self._attend = AttendGraphs(self.options.map)
        self.texts = texts.to(self.tower)
        if self.texts.words.background is None:
            check_no_background(self.options)

    @classmethod
    def from_pretrained(
        cls,
        model_name: str | Path,
        pretrained: str | Path | None = None,
        class_names: Sequence[str | Sequence[str]] | None = None,
        *,
        device: torch.device | str | None = None,
        quick_gelu: bool | None = None,
        **options: Any,
    ) -> CDAMSegmenter:
        """A segmenter with weights by name, or from a file.

        Args:
            model_name: of open_clip, such as ``"ViT-B-16"``, ``"hf-hub:org/repository"``, a folder with
                ``open_clip_config.json``, or a JSON file with a model configuration. ``"tiny"`` is a model of 2 MB in
                the package, for trying things out; it comes with its own sides and logit_scale.
            pretrained: a tag of open_clip, such as ``"laion2b_s34b_b88k"``, or a file: safetensors, a PyTorch
                checkpoint that loads without running pickled code, or OpenAI's own; None for models that come with
                their weights (``"tiny"``, a folder, the hub).
            class_names, options: as for `CDAMSegmenter`.
            device: None is the CPU.
            quick_gelu: the activation; None is what the weights were trained with, see
                `cdam_fast.segmentation.load.load_clip`.

        Raises:
            TypeError, ValueError: unknown names, a file that is refused. RuntimeError: weights that cannot be
                downloaded.
        """
        if class_names is None:
            raise TypeError("class_names: got None, takes a sequence of strings or of lists of synonyms")
        model, tokenizer = load_clip(model_name, pretrained, check_device(device), quick_gelu)
        return cls(model, tokenizer, class_names, **(model_defaults(model_name) | options))

    def __call__(self, image: object) -> Segmentation:
        """`segment` of one image."""
        (result,) = self.iterate([image])
        return result

    @overload
    def segment(self, images: list[Any] | tuple[Any, ...]) -> list[Segmentation]: ...
    @overload
    def segment(self, images: object) -> Segmentation | list[Segmentation]: ...
    def segment(self, images: object) -> Segmentation | list[Segmentation]:
        """Labels of one image, or of a list of them (a tensor ``[B, 3, H, W]`` is one too).

        Args:
            images: PIL images, arrays ``[H, W, 3]`` uint8, tensors ``[3, H, W]`` uint8 or floating in [0, 1], of any
                sizes; not normalised. See `cdam_fast.segmentation.images.as_tensor` for colour spaces, rotation and
                transparency.

        Raises:
            TypeError, ValueError: something that is no image, by its place in the list. RuntimeError: out of memory,
                with the batch_size to try.
        """
        if isinstance(images, (list, tuple)) or (isinstance(images, Tensor) and images.dim() == 4):
            return list(self.iterate(images))
        return self(images)

    def iterate(self, images: Iterable[object]) -> Iterator[Segmentation]:
        """The segmentations of images as they are done, in order; images are taken as they are needed."""
        for outcome in self._outcomes(images, apart=False):
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome

    def outcomes(self, images: Iterable[object], *, fill: bool = False) -> Iterator[Segmentation | Exception]:
        """As `iterate`, but an image that fails leaves its exception in its place, and the others go on.

        With fill the last batch is filled up to batch_size windows with copies, at their cost: rounding then does not
        depend on which images come together, and labels are the same however a list of them is divided.
        """
        return self._outcomes(images, apart=True, fill=fill)

    def _outcomes(
        self, images: Iterable[object], apart: bool, fill: bool = False
    ) -> Iterator[Segmentation | Exception]:
        return outcomes(
            images,
            self._canvas,
            self._guarded,
            self._finish,
            self.options.batch_size,
            apart=apart,
            fill=fill,
            settings=partial(own_settings, self.tower.device),
        )

    @property
    def preparation(self) -> Preparation:
        """What happens to an image before the model: from an image to a `Prepared` one. Another process may do it."""
        options = self.options
        return Preparation(options.short_side, options.long_side, options.resize, options.refine, self.tower.device)

    def _canvas(self, image: object, name: str) -> Canvas:
        options = self.options
        pixels, size, whole = image if isinstance(image, Prepared) else self.preparation(image, name)
        normalised = self.normalise(pixels.to(self.tower.device))
        whole = None if whole is None else whole.to(self.tower.device)
        canvas = Canvas(normalised, size, options.window, options.stride, self.tower.patch, whole)
        if not leaves_patches(options, canvas.grid):
            (height, width), (h, w) = size, canvas.grid
            raise ValueError(
                f"{name}: got {height}x{width} pixels, of which long_side={options.long_side} leaves windows of "
                f"{h}x{w} patches, takes at least one{' at every scale of the map' if options.cdam else ''}"
            )
        return canvas

    def _guarded(self, crops: list[Tensor]) -> Tensor:
        try:
            return self._word_logits(torch.stack(crops))
        except OutOfMemoryError as error:
            count = len(crops)
            advice = f"try batch_size={count // 2}" if count > 1 else "try a smaller window, dtype or model"
            raise RuntimeError(
                f"batch_size: {count} windows at once do not fit the memory of {self.tower.device}; {advice}"
            ) from error

    def _finish(self, canvas: Canvas) -> Segmentation:
        return finish(canvas, self.options, self.texts, self.tower.dtype)
