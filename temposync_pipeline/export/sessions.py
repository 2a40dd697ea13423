"""Networks' files, loaded by ONNX Runtime or OpenVINO: torch tensors in, torch tensors out."""

import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad

from ..errors import InvalidInputError
from ..files import make_cache_folder
from .networks import Network, Tensors

Session = Callable[[Tensors], tuple[torch.Tensor, ...]]

# OpenVINO 2026.4 changes the process's locale while it compiles with a cache and then sets it back: of two threads that do so at once the
# second sets it back to the first one's "C", and from then on Python reads and writes text in ASCII. While one compiles, others may see
# "C".
_compiling = threading.Lock()

# Frames that OpenVINO computes at once in bfloat16: for a known number it makes faster programs, and so one serves all chunks of a video.
# (Compiled for a known number in float32, the denoiser crashes OpenVINO 2026.4.)
SLICE = 8


def open_session(path: Path, network: Network, example: Tensors, bfloat16: bool) -> Session:
    """A function of inputs by name, float32 on the CPU, that returns the outputs in order; an .onnx file by ONNX Runtime, .xml by OpenVINO.

    Both use as many threads as torch does.

    Args:
        example: inputs of the sizes to come, but for the number of frames and the dimensions that are free where there are no frames.
        bfloat16: whether OpenVINO multiplies in it, on a CPU that can; ONNX Runtime always computes in float32.
    """
    if path.suffix == ".onnx":
        return _onnx_session(path, network)
    bfloat16 = bfloat16 and _has_bfloat16()
    sliced = bfloat16 and network.per_frame
    run = _openvino_session(path, network, example if sliced else None, bfloat16)
    return _in_slices(run, network) if sliced else run


def _arrays(tensors: Tensors, network: Network) -> dict[str, Any]:
    return {name: tensors[name].detach().contiguous().numpy() for name in network.inputs}


def load_onnxruntime() -> Any:
    """The module onnxruntime, which from 1.32 on tells its maker how it is used unless it is told not to before it is imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _onnx_session(path: Path, network: Network) -> Session:
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the cores to the other stages
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda tensors: tuple(map(torch.from_numpy, session.run(None, _arrays(tensors, network))))


def load_openvino() -> Any:
    """The module openvino, without the one by which it tells its maker what is converted.

    It cannot be imported by a user without a home folder: it then gets one in which nothing can be kept.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
    homeless = os.path.expanduser("~") == "~"
    if homeless:
        os.environ["HOME"] = os.devnull
    try:
        import openvino
    finally:
        if homeless:
            del os.environ["HOME"]
    return openvino


@lru_cache(1)
def _core() -> Any:
    return load_openvino().Core()


def _has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16: on one that does not, OpenVINO 2026.4 ended the process over the denoiser of fixed sizes."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _cache() -> dict[str, str]:
    """Where compiled models are kept; nothing where they cannot be."""
    try:
        return {"CACHE_DIR": str(make_cache_folder("compiled"))}
    except InvalidInputError:
        return {}


def _openvino_session(path: Path, network: Network, example: Tensors | None, bfloat16: bool) -> Session:
    """For inputs of the example's sizes, `SLICE` frames of them; None = of any size."""
    model = _core().read_model(path)
    if example is not None:
        model.reshape({name: [SLICE if axis == 0 and 0 in network.inputs[name] else size for axis, size in enumerate(value.shape)]
                       for name, value in example.items()})
    # Tied to a core that another process keeps busy, its threads would wait for it while others are free.
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False, **_cache()}
    with _compiling:
        compiled = _core().compile_model(model, "CPU", settings)
    own = threading.local()  # several threads may call at once

    def run(tensors: Tensors) -> tuple[torch.Tensor, ...]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        results = own.request.infer(_arrays(tensors, network), share_inputs=True)
        return tuple(torch.from_numpy(results[port]) for port in compiled.outputs)

    return run


def _in_slices(run: Session, network: Network) -> Session:
    """A session for any number of frames of one that takes `SLICE`."""
    framed = [name for name, dimensions in network.inputs.items() if 0 in dimensions]

    def run_all(tensors: Tensors) -> tuple[torch.Tensor, ...]:
        count = len(tensors[framed[0]])
        parts = []
        for start in range(0, count, SLICE):
            part = {name: tensors[name][start:start + SLICE] for name in framed}
            missing = SLICE - len(part[framed[0]])
            parts.append(run(tensors | {name: pad(value, (0, 0) * (value.ndim - 1) + (0, missing)) for name, value in part.items()}))
        return tuple(torch.cat(outputs)[:count] for outputs in zip(*parts))

    return run_all
