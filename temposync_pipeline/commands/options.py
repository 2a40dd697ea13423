"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

MAX_SEED = 2**32 - 1  # as on the page

Model = Annotated[str, typer.Option(help="A bundled checkpoint, a directory, or org/name on the Hub.")]
Steps = Annotated[int | None, typer.Option(
    "--num_inference_steps", "--steps", min=1, max=1000,
    help="Denoising steps a frame: 1 to 8 for a student, more for a teacher; default: 4, where the whole face moves 8.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same video.")]
MouthAmplitude = Annotated[float | None, typer.Option(
    "--mouth_amplitude", min=0, max=3, help="Scales the motion; default: the checkpoint's own value.")]
FaceIndex = Annotated[int, typer.Option("--face_index", min=0, help="Who speaks where the picture shows several faces: 0 = the largest.")]
MAX_SIZE = 1920  # as in the pipeline
MaxSize = Annotated[int, typer.Option(
    "--max_size", min=0, help="Longer side of the video in pixels; larger photos are shrunk to it. 0 = as the photo.")]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps, ...")]
Runtime = Annotated[str, typer.Option(
    envvar="TEMPOSYNC_RUNTIME",
    help="What computes on a CPU: torch, openvino, onnxruntime, or auto: torch, or the fastest that is installed if that is "
         "clearly faster, which is measured once.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results here as JSON.")]
_AUDIO = typer.Option("--audio", "--driven_audio", help="Speech: wav, mp3, flac, m4a, ogg, opus, wma, ...")
AudioFile = Annotated[Path, _AUDIO]
OptionalAudioFile = Annotated[Path | None, _AUDIO]
Provenance = Annotated[bool, typer.Option(
    "--provenance/--no-provenance",
    help="Mark the video as AI-generated, by a watermark and content credentials (see verify); metadata say so either way.")]
SigningCert = Annotated[Path | None, typer.Option(
    "--signing-cert", metavar="PEM", help="Sign content credentials with this certificate and those that it was issued by.")]
SigningKeyFile = Annotated[Path | None, typer.Option("--signing-key", metavar="PEM", help="The certificate's private key.")]
BlinkRate = Annotated[float, typer.Option("--blink_rate", min=0, max=2, help="How often the eyes blink: 1 = as talkers' do, 0 = never.")]
HeadMotion = Annotated[float, typer.Option("--head_motion", min=0, max=2, help="How far the head moves: 1 = as talkers' do, 0 = not.")]
