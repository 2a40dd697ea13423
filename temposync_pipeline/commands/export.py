"""`temposync export`: the networks as files for other runtimes."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidInputError
from ..files import example_media, make_cache_folder
from ..terminal import say
from .checks import check_files, check_folder, check_model, write_json
from .options import JsonFile, Model


def export(
    form: Annotated[str, typer.Option("--format", help="onnx or openvino.")],
    output: Annotated[Path | None, typer.Option(
        help="Folder for the files, made if need be; default: the cache, where --runtime finds them.")] = None,
    image: Annotated[Path | None, typer.Option(help="A portrait to check the files with; default: the example of the source tree.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Speech to check them with; default: the example of the source tree.")] = None,
    model: Model = "temposync-tiny",
    json_file: JsonFile = None,
) -> None:
    """Write every network that makes a video as ONNX or OpenVINO files, for any number of frames and any length, and check them.

    Example: temposync export --format openvino --output temposync-openvino

    A folder that is called "openvino" or "onnx" belongs into the checkpoint's, beside the safetensors, where --runtime finds it, too.
    Each file is compared with torch on real inputs: the largest error, relative to the largest value, is printed, and one above 0.001 is an
    error. The files are float32; OpenVINO multiplies in bfloat16 where it is asked to.
    """
    image, audio = example_media(image, audio)
    check_files((image, audio), (json_file,), (Path(model),))
    check_model(model)
    from ..export.files import check_format, export_pipeline
    from .video import load_pipeline

    check_format(form)
    output = make_cache_folder(form) if output is None else output
    if output.exists():
        check_folder(output)
    pipe = load_pipeline(model, "cpu")
    try:
        errors = export_pipeline(pipe, image, audio, form, output)
    except OSError as error:
        raise InvalidInputError(f"{output}: {error.strerror or error}") from error
    write_json(json_file, {"format": form, "output": str(output), "relative_error": errors})
    for name, worst in errors.items():
        say(f"{name:20s} largest relative error {worst:.1e}")
    say(output)
