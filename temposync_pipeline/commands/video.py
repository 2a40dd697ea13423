"""`temposync generate`, `decode` and `visemes`: from a portrait and speech to a video."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InvalidInputError
from ..export import check_runtime
from ..files import called
from ..progress import hide_loading_bars
from ..startup import start_full
from ..terminal import is_watched, say
from .checks import check_files, check_model, check_mp4, check_steps, choose_device, choose_provenance, write_json
from .options import (
    MAX_SIZE,
    AudioFile,
    BlinkRate,
    Device,
    FaceIndex,
    HeadMotion,
    JsonFile,
    MaxSize,
    Model,
    MouthAmplitude,
    OptionalAudioFile,
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
    audio: OptionalAudioFile = None,
    speaker: Annotated[list[str] | None, typer.Option(metavar="FACE=AUDIO", help=(
        "Instead of --audio, repeated: a face's number, 0 = the largest, and what it says; they speak in turn."))] = None,
    output: Annotated[Path, typer.Option(
        help="The mp4 to write; a name ending in .safetensors keeps latents for `temposync decode`.")] = Path("talking.mp4"),
    seed: Seed = 0,
    num_inference_steps: Steps = None,
    face_index: FaceIndex = 0,
    mouth_amplitude: MouthAmplitude = None,
    blink_rate: BlinkRate = 0,
    head_motion: HeadMotion = 0,
    still: Annotated[bool, typer.Option("--still", help="Keep to the mouth, whatever else the model would move.")] = False,
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

    Two people: temposync generate --image couple.jpg --speaker 0=question.wav --speaker 1=answer.wav --output talk.mp4
    """
    turns = read_turns(speaker or [])
    if (audio is None) == (not turns):
        raise InvalidInputError("--audio and --speaker exclude each other" if turns else "--audio (or --speaker FACE=AUDIO) is missing")
    recordings = [recording for _, recording in turns] if audio is None else [audio]
    check_files((image, *recordings), (output, json_file), (lora, signing_cert, signing_key, Path(model)))
    if turns and output.suffix.lower() != ".mp4":
        raise InvalidInputError(f"{output}: with --speaker the output is an mp4")
    if output.suffix.lower() not in (".mp4", ".safetensors"):
        raise InvalidInputError(f"{output}: the output is an mp4, its name must end in .mp4 (or in .safetensors for latents)")
    if still and (blink_rate or head_motion):
        raise InvalidInputError("--still moves the mouth alone: leave out --blink_rate and --head_motion, or --still")
    if output.suffix.lower() == ".safetensors" and (blink_rate or head_motion):
        raise InvalidInputError(f"{output}: latents hold the mouth alone: --blink_rate and --head_motion need an mp4")
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
    for recording in recordings:
        load_audio(recording)
    check_steps(model, [num_inference_steps])
    pipe = load_pipeline(model, device, runtime if lora is None else "torch")
    if turns and not hasattr(pipe, "dialogue_to_file"):
        raise InvalidInputError(f"{model}: lets one person speak; temposync-tiny takes --speaker")
    if lora is not None and not hasattr(pipe, "load_lora_weights"):
        raise InvalidInputError(f"{model}: takes no adapter")
    if lora is not None:
        pipe.load_lora_weights(lora)
        pipe.fuse_lora()
    import torch

    started = time.monotonic()
    try:
        is_video = output.suffix.lower() == ".mp4"
        kind = "dialogue_to_file" if turns else "generate_to_file" if is_video else "latents_to_file"
        figures = getattr(pipe, kind)(
            image,
            turns or audio,
            output,
            num_inference_steps=num_inference_steps,
            generator=torch.Generator().manual_seed(seed),
            progress=is_watched(),
            mouth_amplitude=mouth_amplitude,
            max_size=max_size,
            **({} if turns else {"face_index": face_index}),
            **life_options(blink_rate, head_motion, still),
            **({"provenance": marking} if is_video else {}),
        )
    except OSError as error:  # a full disk, say; the user knows the output's name, not the temporary file's
        raise InvalidInputError(f"{output}: {error.strerror or error}") from error
    write_json(json_file, {"output": str(output), "wall_seconds": time.monotonic() - started, **figures})
    say(output)


def read_turns(speakers: list[str]) -> list[tuple[int, Path]]:
    """(face, recording) of each "FACE=AUDIO"; raises InvalidInputError for anything else."""
    turns = []
    for text in speakers:
        face, sign, recording = text.partition("=")
        if not (sign and recording and face.strip().isdecimal() and len(face) <= 9):
            raise InvalidInputError(f"--speaker {text}: expected a face's number and a recording, such as 0=hello.wav")
        turns.append((int(face), Path(recording)))
    return turns


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
    check_files((latents,), (output, json_file), (signing_cert, signing_key, Path(model)))
    check_mp4(output)
    check_model(model)
    check_runtime(runtime)
    marking = choose_provenance(provenance, signing_cert, signing_key)
    from ..pipelines.latent_video import LatentVideo

    # What is wrong with the input is said before the models are loaded.
    LatentVideo.load(latents)
    pipe = load_pipeline(model, device, runtime)
    started = time.monotonic()
    try:
        figures = pipe.decode_to_file(latents, output, marking)
    except OSError as error:
        raise InvalidInputError(f"{output}: {error.strerror or error}") from error
    write_json(json_file, {"wall_seconds": time.monotonic() - started, **figures})
    say(output)


def visemes(
    audio: AudioFile,
    json_file: JsonFile = None,
    model: Model = "temposync-tiny",
    device: Device = "auto",
    runtime: Runtime = "auto",
) -> None:
    """Print which mouth shape the speech calls for, 25 times a second, and when.

    Example: temposync visemes --audio speech.wav --json visemes.json

    Here --runtime auto is torch: to start another one takes longer than to listen.

    The JSON holds "fps", "visemes" (15 names) and "probabilities" (15 numbers for every video frame).
    """
    check_files((audio,), (json_file,), (Path(model),))
    check_model(model)
    check_runtime(runtime)
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
    classifier = load_component(VisemeClassifier, folder / "viseme_classifier", called(model)).to(device)
    if runtime not in ("auto", "torch"):
        from ..export.runtimes import load_runtime

        load_runtime(SimpleNamespace(viseme_classifier=classifier), runtime, model)
    probabilities = classifier.predict(speech.samples, num_frames=round(speech.duration * FPS), fps=FPS)
    warn_without_speech(speech.name, probabilities)
    names = list(VISEMES)
    write_json(json_file, {"fps": FPS, "visemes": names, "probabilities": probabilities.round(5).tolist()})
    frame = 0
    for viseme, run in groupby(probabilities.argmax(1).tolist()):
        end = frame + len(list(run))
        say(f"{frame / FPS:8.2f} {end / FPS:8.2f}  {names[viseme]}")
        frame = end


def life_options(blink_rate: float, head_motion: float, still: bool = False) -> dict[str, float | bool]:
    """Those that were asked for: not every method has all of them."""
    return {name: value for name, value in (("blink_rate", blink_rate), ("head_motion", head_motion), ("still", still)) if value}


def load_pipeline(model: str, device: str, runtime: str = "torch") -> "TalkingHeadPipeline":
    """The checkpoint's pipeline on the device that `--device` names, which computes with what `--runtime` names."""
    device = choose_device(device)
    from ..pipelines import auto

    hide_loading_bars()
    if runtime == "auto" and device != "cpu":  # where it is going; it is loaded on the CPU
        runtime = "torch"
    return auto.load_pipeline(model, runtime=runtime).to(device)
