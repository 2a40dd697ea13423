"""`temposync generate`, `decode` and `visemes`: from a portrait and speech to a video."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidInputError
from ..export import check_runtime
from ..progress import hide_loading_bars
from ..startup import start_full
from .checks import check_files, check_model, check_mp4, check_steps, choose_device, choose_provenance, write_json
from .options import (
    MAX_SIZE,
    AudioFile,
    Device,
    FaceIndex,
    JsonFile,
    MaxSize,
    Model,
    MouthAmplitude,
    Provenance,
    Runtime,
    Seed,
    SigningCert,
    SigningKeyFile,
    Steps,
)

if TYPE_CHECKING:
    from ..pipelines.talking_head import TalkingHeadPipeline


def generate(
    image: Annotated[Path, typer.Option("--image", "--source_image", help="The portrait, a picture file.")],
    audio: AudioFile,
    output: Annotated[Path, typer.Option(
        help="The mp4 to write; a name ending in .safetensors keeps latents for `temposync decode`.")] = Path("talking.mp4"),
    seed: Seed = 0,
    num_inference_steps: Steps = None,
    face_index: FaceIndex = 0,
    mouth_amplitude: MouthAmplitude = None,
    still: Annotated[bool, typer.Option("--still", help="Keep to the mouth where the model moves the whole face.")] = False,
    max_size: MaxSize = MAX_SIZE,
    model: Model = "temposync-tiny",
    lora: Annotated[Path | None, typer.Option(
        help="An adapter that `temposync train student --set lora_rank=8` wrote: its folder or file.")] = None,
    provenance: Provenance = True,
    signing_cert: SigningCert = None,
    signing_key: SigningKeyFile = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    json_file: JsonFile = None,
) -> None:
    """Make a portrait speak.  The path of the video is the last line printed.

    Example: temposync generate --image portrait.jpg --audio speech.wav --output talking.mp4
    """
    check_files((image, audio), (output, json_file))
    if output.suffix.lower() not in (".mp4", ".safetensors"):
        raise InvalidInputError(f"{output}: the output is an mp4, its name must end in .mp4 (or in .safetensors for latents)")
    check_model(model)
    check_runtime(runtime)
    if lora is not None and runtime not in ("auto", "torch"):
        raise InvalidInputError(f"--runtime {runtime}: adapters need torch")
    if lora is not None and not lora.exists():
        raise InvalidInputError(f"{lora}: no such file or folder")
    marking = choose_provenance(provenance, signing_cert, signing_key)
    if lora is not None:
        start_full()
    from ..media.audio import load_audio
    from ..media.image import load_image

    # What is wrong with the inputs is said before the models are loaded.
    load_image(image)
    load_audio(audio)
    check_steps(model, [num_inference_steps])
    pipe = load_pipeline(model, device)
    if lora is not None and not hasattr(pipe, "load_lora_weights"):
        raise InvalidInputError(f"{model}: takes no adapter")
    if lora is not None:
        pipe.load_lora_weights(lora)
        pipe.fuse_lora()
    else:
        choose_runtime(pipe, model, runtime)
    import torch

    started = time.monotonic()
    try:
        is_video = output.suffix.lower() == ".mp4"
        make = pipe.generate_to_file if is_video else pipe.latents_to_file
        figures = make(
            image,
            audio,
            output,
            num_inference_steps=num_inference_steps,
            generator=torch.Generator().manual_seed(seed),
            progress=sys.stderr.isatty(),
            face_index=face_index,
            mouth_amplitude=mouth_amplitude,
            max_size=max_size,
            **({"still": True} if still else {}),
            **({"provenance": marking} if is_video else {}),
        )
    except OSError as error:  # a full disk, say; the user knows the output's name, not the temporary file's
        raise InvalidInputError(f"{output}: {error.strerror or error}") from error
    write_json(json_file, {"output": str(output), "wall_seconds": time.monotonic() - started, **figures})
    typer.echo(output)


def decode(
    latents: Annotated[Path, typer.Option(help="A file that `temposync generate --output FILE.safetensors` wrote.")],
    output: Annotated[Path, typer.Option(help="The mp4 to write.")] = Path("talking.mp4"),
    model: Model = "temposync-tiny",
    provenance: Provenance = True,
    signing_cert: SigningCert = None,
    signing_key: SigningKeyFile = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    json_file: JsonFile = None,
) -> None:
    """Turn latents into the video, later or on another machine.  The path of the video is the last line printed.

    Example: temposync decode --latents talking.safetensors --output talking.mp4
    """
    check_files((latents,), (output, json_file))
    check_mp4(output)
    check_model(model)
    check_runtime(runtime)
    marking = choose_provenance(provenance, signing_cert, signing_key)
    from ..pipelines.latent_video import LatentVideo

    # What is wrong with the input is said before the models are loaded.
    LatentVideo.load(latents)
    pipe = load_pipeline(model, device)
    choose_runtime(pipe, model, runtime)
    started = time.monotonic()
    try:
        figures = pipe.decode_to_file(latents, output, marking)
    except OSError as error:
        raise InvalidInputError(f"{output}: {error.strerror or error}") from error
    write_json(json_file, {"wall_seconds": time.monotonic() - started, **figures})
    typer.echo(output)


def visemes(
    audio: AudioFile,
    json_file: JsonFile = None,
    model: Model = "temposync-tiny",
    device: Device = "auto",
) -> None:
    """Print which mouth shape the speech calls for, 25 times a second, and when.

    Example: temposync visemes --audio speech.wav --json visemes.json

    The JSON holds "fps", "visemes" (15 names) and "probabilities" (15 numbers for every video frame).
    """
    check_files((audio,), (json_file,))
    check_model(model)
    from itertools import groupby

    from ..checkpoints import checkpoint_folder
    from ..media.audio import load_audio
    from ..media.video import FPS
    from ..models.viseme_classifier import VISEMES, VisemeClassifier, warn_without_speech
    from ..pipelines.loading import load_component

    speech = load_audio(audio)
    device = choose_device(device)
    hide_loading_bars()
    folder = checkpoint_folder(model, ("viseme_classifier",))
    classifier = load_component(VisemeClassifier, folder / "viseme_classifier", Path(model).name).to(device)
    probabilities = classifier.predict(speech.samples, num_frames=round(speech.duration * FPS), fps=FPS)
    warn_without_speech(speech.name, probabilities)
    names = list(VISEMES)
    write_json(json_file, {"fps": FPS, "visemes": names, "probabilities": probabilities.round(5).tolist()})
    frame = 0
    for viseme, run in groupby(probabilities.argmax(1).tolist()):
        end = frame + len(list(run))
        typer.echo(f"{frame / FPS:8.2f} {end / FPS:8.2f}  {names[viseme]}")
        frame = end


def load_pipeline(model: str, device: str) -> "TalkingHeadPipeline":
    """The checkpoint's pipeline on the device that `--device` names."""
    device = choose_device(device)
    from ..pipelines import auto

    hide_loading_bars()
    return auto.load_pipeline(model).to(device)


def choose_runtime(pipe: "TalkingHeadPipeline", model: str, runtime: str) -> None:
    """Let the pipeline compute with what `--runtime` names."""
    from ..export.runtimes import load_runtime

    load_runtime(pipe, runtime, model)
