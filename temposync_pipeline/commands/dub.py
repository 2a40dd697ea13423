"""`temposync dub`: a video whose person speaks another recording."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidInputError
from ..export import check_runtime
from ..terminal import is_watched, say
from .checks import check_files, check_model, check_mp4, check_steps, choose_provenance, write_json
from .options import AudioFile, Device, JsonFile, Model, MouthAmplitude, Provenance, Runtime, Seed, SigningCert, SigningKeyFile, Steps
from .video import load_pipeline


class End(StrEnum):
    """What follows where the recording is longer than the video."""

    loop = "loop"
    freeze = "freeze"
    cut = "cut"


class NoFace(StrEnum):
    """What becomes of frames without the person's face."""

    keep = "keep"
    error = "error"


def dub(
    video: Annotated[Path, typer.Option("--video", "--source_video", help="The video, of any size and frame rate.")],
    audio: AudioFile,
    output: Annotated[Path, typer.Option(help="The mp4 to write.")] = Path("dubbed.mp4"),
    end: Annotated[End, typer.Option(help="Where the recording is longer: the video goes back and forth (loop), its last frame speaks on "
                                          "(freeze), or the recording ends with it (cut).")] = End.loop,
    no_face: Annotated[NoFace, typer.Option("--no_face", help="Frames without the person's face stay as they are, or are an error.")] =
    NoFace.keep,
    face_index: Annotated[int, typer.Option(
        "--face_index", min=0, help="Who speaks: 0 = the largest face of the first frame with so many; that person is followed.")] = 0,
    seed: Seed = 0,
    num_inference_steps: Steps = None,
    mouth_amplitude: MouthAmplitude = None,
    model: Model = "temposync-tiny",
    provenance: Provenance = True,
    signing_cert: SigningCert = None,
    signing_key: SigningKeyFile = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    json_file: JsonFile = None,
) -> None:
    """Make the person in a video speak another recording.  The path of the new video is the last line printed.

    Example: temposync dub --video talk.mp4 --audio new.wav --output dubbed.mp4

    Only the mouth changes: size, frame rate, colours and all other pixels stay. The new video ends with the recording.
    """
    check_files((video, audio), (output, json_file), (signing_cert, signing_key, Path(model)))
    check_mp4(output)
    check_model(model)
    check_runtime(runtime)
    marking = choose_provenance(provenance, signing_cert, signing_key)
    from ..media.audio import load_audio
    from ..media.footage import Footage

    # What is wrong with the inputs is said before the models are loaded.
    Footage(video)
    load_audio(audio)
    check_steps(model, [num_inference_steps])
    pipe = load_pipeline(model, device, runtime)
    if not hasattr(pipe, "dub_to_file"):
        raise InvalidInputError(f"{model}: cannot dub; temposync-tiny can")
    import torch

    started = time.monotonic()
    try:
        figures = pipe.dub_to_file(
            video, audio, output, num_inference_steps=num_inference_steps, generator=torch.Generator().manual_seed(seed),
            progress=is_watched(), face_index=face_index, mouth_amplitude=mouth_amplitude, end=end.value, no_face=no_face.value,
            provenance=marking)
    except OSError as error:  # a full disk, say; the user knows the output's name, not the temporary file's
        raise InvalidInputError(f"{output}: {error.strerror or error}") from error
    write_json(json_file, {"wall_seconds": time.monotonic() - started, **figures})
    say(output)
