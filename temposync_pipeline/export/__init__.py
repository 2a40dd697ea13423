"""The networks of inference as files of ONNX and OpenVINO, and pipelines that compute with them (`export.runtimes`)."""

from importlib.util import find_spec

from ..errors import InvalidInputError

RUNTIMES = {"openvino": "openvino", "onnxruntime": "onnx"}  # and the format, and extra of the package, of each


def installed_runtimes() -> list[str]:
    """"torch", and those of `RUNTIMES` whose libraries are there."""
    found = {name: find_spec(name) for name in RUNTIMES}
    return ["torch", *(name for name, spec in found.items() if spec is not None and spec.origin is not None)]  # a folder has no origin


def check_runtime(name: str) -> None:
    """Raises InvalidInputError for anything but "auto" and the `installed_runtimes`."""
    if name not in ("auto", "torch", *RUNTIMES):
        raise InvalidInputError(f"runtime {name!r}: expected auto, torch, {' or '.join(RUNTIMES)}")
    if name != "auto" and name not in installed_runtimes():
        raise InvalidInputError(f"runtime {name!r}: not installed: pip install 'temposync-pipeline[{RUNTIMES[name]}]'")
