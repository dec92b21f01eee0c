"""A map of fixed shape as a CUDA graph: a call costs the host one copy and one launch."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from cdam_fast import ops
from cdam_fast.arguments import check_backend, check_similarity, check_values
from cdam_fast.attention import cdam_attend, cdam_attention

GRAPH_DEVICES = ("cuda",)
"""Kinds of device that record graphs; ROCm's are called so too."""


class GraphedMap:
    """What `graphed` returns: `cdam_attention`, or `cdam_attend`, for inputs like its examples."""

    def __init__(self, inputs: dict[str, Tensor], graph: Any, result: Tensor) -> None:
        self._inputs, self._graph, self._result = inputs, graph, result

    def __call__(self, similarity: Tensor, values: Tensor | None = None) -> Tensor:
        """The result, in memory of the graph: the next call overwrites it, so clone what is to stay.

        Calls are queued on the current stream; two streams must not call at once.

        Raises:
            TypeError: an argument that is no tensor. ValueError: another shape, dtype or device than the example's,
                values where the examples had none, none where they had some, or a tensor that requires gradients.
        """
        given = {"similarity": similarity} if values is None else {"similarity": similarity, "values": values}
        if len(given) != len(self._inputs):
            with_values = "takes values, as its examples had them" if values is None else "takes none"
            raise ValueError(f"values: got {'None' if values is None else 'a tensor'}, {with_values}")
        for name, tensor in given.items():
            example = self._inputs[name]
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name}: got {type(tensor).__name__}, takes a tensor")
            if tensor.shape != example.shape or tensor.dtype != example.dtype or tensor.device != example.device:
                raise ValueError(f"{name}: got {_described(tensor)}, takes {_described(example)}, as the example was")
            _check_gradient(name, tensor)
        for name, tensor in given.items():
            self._inputs[name].copy_(tensor)
        self._graph.replay()
        return self._result


def graphed(similarity_example: Tensor, values_example: Tensor | None = None, **options: Any) -> GraphedMap:
    """`cdam_attention` of one shape as a CUDA graph, or `cdam_attend` where values are given.

    For many calls of one shape on a GPU, where starting three kernels costs the host more than they run. As
    `torch.cuda.make_graphed_callables` does for modules, the result's memory is the same in every call.

    Args:
        similarity_example: ``[..., C, h, w]`` on a CUDA device, of the shape and dtype that calls will have; float16,
            bfloat16 or float32. What it holds does not matter.
        values_example: None, or ``[..., N, D]`` as for `cdam_attend`.
        options: as for `cdam_attention`; backend is "auto" or "triton", which is what a graph is recorded of.

    Returns:
        A callable: ``(similarity) -> [..., N, N]``, or ``(similarity, values) -> [..., N, D]``. It keeps the memory
        of its inputs, scratch and result. Without gradients.

    Raises:
        TypeError, ValueError: as `cdam_attention`; examples that are on no CUDA device or require gradients, another
            backend. RuntimeError: the kernels cannot serve such a call.
    """
    similarity = check_similarity(similarity_example)
    values = None if values_example is None else check_values(values_example, similarity)
    backend = check_backend(options.pop("backend", "auto"))
    if backend not in ("auto", "triton"):
        raise ValueError(f"backend: got {backend!r}, takes 'auto' or 'triton': a graph is recorded of the kernels")
    if similarity.device.type not in GRAPH_DEVICES:
        raise ValueError(
            f"similarity_example: got a tensor on {similarity.device}, takes one on a CUDA device: no other has graphs"
        )
    reason = ops.refusal(similarity, similarity.shape[-2] * similarity.shape[-1])
    if reason is not None:
        raise RuntimeError(f"similarity_example: {reason}")
    examples = {"similarity": similarity} if values is None else {"similarity": similarity, "values": values}
    for name, example in examples.items():
        _check_gradient(f"{name}_example", example)
    function: Any = cdam_attention if values is None else cdam_attend
    # tensors of the inference mode could not be written outside of it
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(similarity.device):
        inputs = {name: example.detach().clone() for name, example in examples.items()}
        function(*inputs.values(), backend="triton", **options)  # compiles, and builds the tables
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may allocate meanwhile
            result = function(*inputs.values(), backend="triton", **options)
    return GraphedMap(inputs, graph, result)


def check_graph(similarity: Tensor) -> None:
    """Raise RuntimeError where the kernels cannot serve maps of such a ``[..., C, h, w]``."""
    reason = ops.refusal(similarity, similarity.shape[-2] * similarity.shape[-1])
    if reason is not None:
        raise RuntimeError(f"graph: {reason}")


class AttendGraphs:
    """`cdam_attend` by graphs: one for each shape, dtype and stream, recorded by the first call of its kind.

    The result is the caller's, as without graphs. Threads take turns: a graph has one memory. Of more than ``most``
    graphs the one that was longest unused is dropped. A copy starts without graphs.
    """

    def __init__(self, options: dict[str, Any], most: int = 8) -> None:
        self.options, self.most = options, most
        self._graphs: dict[Any, GraphedMap] = {}  # the last used last
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return AttendGraphs, (self.options, self.most)

    def __call__(self, similarity: Tensor, values: Tensor) -> Tensor:
        """``[..., C, h, w]`` and ``[..., N, D]`` -> ``[..., N, D]``.

        Raises:
            RuntimeError: the kernels cannot serve such a call.
        """
        device = similarity.device
        kind = similarity.shape, similarity.dtype, values.shape, values.dtype
        key = kind, device, torch.cuda.current_stream(device).cuda_stream
        with self._lock:
            graph = self._graphs.pop(key, None)
            if graph is None:
                check_graph(similarity)
                while len(self._graphs) >= self.most:
                    del self._graphs[next(iter(self._graphs))]
                graph = graphed(similarity, values, **self.options)
            self._graphs[key] = graph
            return graph(similarity, values).clone()


def _check_gradient(name: str, tensor: Tensor) -> None:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name}: got a tensor that requires gradients, takes one without; a graph has no backward")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"
