"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="A bundled checkpoint, a directory, or org/name on the Hub.")]
Steps = Annotated[int, typer.Option("--num_inference_steps", "--steps", min=1, max=1000, help="Denoising steps a frame.")]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps, ...")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results here as JSON.")]
AudioFile = Annotated[Path, typer.Option("--audio", "--driven_audio", help="Speech: wav, mp3, flac, m4a, ogg, opus, ...")]
