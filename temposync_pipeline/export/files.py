"""Networks written as ONNX and OpenVINO files, and checked against torch."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from ..checkpoints.schema import read_json
from ..errors import InvalidInputError
from ..face.inner_mouth import BLOCK, SCALE, block_of_window, cells_around
from ..face.warp import inner_cells
from ..files import write_whole
from ..interrupts import interrupts_held
from ..models.autoencoder_temposync import AutoencoderTempoSync
from .networks import Network, Tensors, fixed_sizes, networks_of, recording, traced, weights_hash
from .sessions import load_openvino, open_session

FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
# What each format's writer needs, and the extra that installs it.
NEEDS = {"onnx": (("onnx", "onnxscript", "onnxruntime"), "onnx"), "openvino": (("openvino",), "openvino")}
# GroupNormalization of opset 21 is one that ONNX Runtime has no CPU kernel for.
OPSET = 20
# Of the largest value that torch computes, in float32.
TOLERANCE = 1e-3
INDEX = "export.json"


def check_format(name: str) -> None:
    """Raises InvalidInputError for a format that is none of `FORMATS`, or whose libraries are not installed."""
    if name not in FORMATS:
        raise InvalidInputError(f"format {name!r}: expected {' or '.join(FORMATS)}")
    libraries, extra = NEEDS[name]
    if missing := [library for library in libraries if find_spec(library) is None]:
        raise InvalidInputError(f"{name} needs {', '.join(missing)}: pip install 'temposync-pipeline[{extra}]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on every operator."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write_network(network: Network, module: nn.Module, example: Tensors, path: Path) -> None:
    """Write a network for any size of batch and length; the path's ending, one of `FORMATS`', says how. `example` are inputs of a call."""
    # Interrupts are held: amid its work torch takes them for faults of the network.
    with interrupts_held(), _quiet(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        program = traced(network, module, example)
        if path.suffix == ".onnx":
            torch.onnx.export(
                program, (), path, input_names=list(network.inputs), output_names=list(network.outputs), opset_version=OPSET,
                external_data=False, verbose=False)
            return
        openvino = load_openvino()
        model = openvino.convert_model(program)
        for ports, names in ((model.inputs, network.inputs), (model.outputs, network.outputs)):
            for port, name in zip(ports, names, strict=True):
                port.get_tensor().set_names({name})
        try:
            openvino.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:  # a full disk, say
            raise InvalidInputError(f"{path}: cannot be written ({error})") from error


@torch.no_grad()
def relative_error(network: Network, module: nn.Module, example: Tensors, path: Path) -> float:
    """Largest difference between a file, computed in float32, and torch, over the largest value of that output; the worst output's."""
    session = open_session(path, network, example, bfloat16=False)
    differences, largest = torch.zeros(len(network.outputs)), torch.full((len(network.outputs),), 1e-6)
    # The example, and half of its batch: what is fixed by mistake shows. A face at rest has a flow of nearly nothing in that half.
    for inputs in (example, _halved(network, example)):
        expected = network.tensors_of(network.torch_forward(module)(**inputs))
        for index, (value, wanted) in enumerate(zip(session(inputs), expected, strict=True)):
            if value.shape != wanted.shape:
                raise InvalidInputError(f"{path.name}: {list(value.shape)} where torch has {list(wanted.shape)}")
            differences[index] = torch.maximum(differences[index], (value - wanted).abs().max())  # a NaN stays one
            largest[index] = torch.maximum(largest[index], wanted.abs().max())
    return float((differences / largest).max())


def _halved(network: Network, example: Tensors) -> Tensors:
    """The first half of the batch."""
    return {name: value[:max(1, len(value) // 2)] if 0 in network.inputs[name] else value for name, value in example.items()}


def export_pipeline(pipeline: Any, image: Any, audio: Any, form: str, folder: Path) -> dict[str, float]:
    """Write every network that makes a video into a folder; returns their `relative_error`s by name.

    Args:
        pipeline: a `TalkingHeadPipeline` on the CPU, in float32. image, audio: what each network's real inputs are taken from.
        form: one of `FORMATS`. folder: is made; its `export.json` says which weights the files hold.

    Raises:
        InvalidInputError: a library is missing, or a file does not compute what torch does.
    """
    check_format(form)
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, dict[str, Any]] = {}
    with torch.inference_mode(False), recording(pipeline) as calls:
        next(pipeline.stream(image, audio, generator=torch.Generator().manual_seed(0)))
        if "motion_decoder" in calls:  # only open mouths have been decoded, if any; a trace of one would hold for no others
            calls.pop("decoder", None)
            pipeline.vae.decode(inner_cells(calls["motion_decoder"]["latents"]))
            if pipeline.vae.knows_inner_mouth:
                _paint_mouths(pipeline.vae, calls)
    (folder / INDEX).unlink(missing_ok=True)  # it would speak for files that are being written
    for network, module in networks_of(pipeline):
        if network.name not in calls:
            raise InvalidInputError(f"{network.name}: not used for this picture and sound, so there is nothing to check it with")
        # Conditions that guidance leaves out are given: what they switch off would not be compared.
        example = {name: torch.ones_like(value) if value.dtype == torch.bool else value for name, value in calls[network.name].items()}
        path = folder / f"{network.name}{FORMATS[form]}"
        write_network(network, module, example, path)
        error = relative_error(network, module, example, path)
        if not error <= TOLERANCE:
            raise InvalidInputError(f"{path.name}: computes something else than torch (relative error {error:.1e})")
        written[network.name] = {"weights": weights_hash(module), "fixed": fixed_sizes(network, example), "relative_error": error}
    write_whole(folder / INDEX, json.dumps({"format": form, "networks": written}, indent=2) + "\n")
    return {name: entry["relative_error"] for name, entry in written.items()}


def _paint_mouths(vae: AutoencoderTempoSync, calls: dict[str, Tensors]) -> None:
    """Ask for the inside of the mouths of a video, open or not."""
    motion = calls["motion_decoder"]
    picture = calls["encoder"]["pixels"][:1, :, BLOCK.y0:BLOCK.y1, BLOCK.x0:BLOCK.x1]
    seen = vae.seen_mouth(interpolate(picture, scale_factor=SCALE, mode="bicubic"))
    hidden = block_of_window(1 - vae.motion(**motion)[1])
    vae.inner_mouth(cells_around(motion["latents"]), cells_around(motion["reference"]), hidden, seen)


def exported_file(folder: Path, network: Network, weights: str, fixed: list[list[int]] | None = None) -> Path | None:
    """A network's file in a folder of `export_pipeline`, if it holds these weights (`weights_hash`) and takes these `fixed_sizes`."""
    try:
        index = read_json(folder / INDEX)
        entry = index["networks"].get(network.name)
        fits = entry is not None and entry["weights"] == weights and (fixed is None or entry["fixed"] == fixed)
        path = folder / f"{network.name}{FORMATS[index['format']]}" if fits else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return path if path is not None and path.is_file() else None
