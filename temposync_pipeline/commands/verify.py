"""`temposync verify`: is a video marked as generated?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import say
from .checks import check_files, write_json
from .options import JsonFile

NOT_MARKED = 1
# What a word does not say by itself.
_STATES = {"Out of date": "out of date (the file is as it was signed, but today the certificate is not valid)"}


def verify(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Any video file or GIF, also one that was encoded again.")],
    json_file: JsonFile = None,
) -> None:
    """Say what marks a video as AI-generated, layer by layer.

    Example: temposync verify talking.mp4 --json marks.json

    The exit code is 0 where a mark was found, 1 where none was, which does not prove that the video is real, and 2 for a file that cannot
    be used.
    """
    check_files((video,), (json_file,))
    from ..media.gif import is_gif
    from ..media.video import read_tags

    if not is_gif(video):
        read_tags(video)  # what is no video is told before the models load
    from ..progress import hide_loading_bars
    from ..provenance.verify import verify_video

    hide_loading_bars()
    report = verify_video(video)
    write_json(json_file, report)
    say(f"watermark: {_watermark_line(report['watermark'])}")
    say(f"metadata: {report['metadata']['comment'] if report['metadata']['found'] else 'none'}")
    say(f"content credentials: {_credentials_line(report['credentials'])}")
    if not report["marked"]:
        raise typer.Exit(NOT_MARKED)


def _watermark_line(layer: dict[str, Any]) -> str:
    if not layer["face"]:
        return "none, there is no face"
    if not layer["found"]:
        return "none"
    model = f", model {layer['model']}" if layer["model"] else ""
    return f"found, {layer['score']:.1f} standard deviations, identifier {layer['identifier']}{model}"


def _credentials_line(layer: dict[str, Any]) -> str:
    if "signer" not in layer:
        unknown = layer["state"] == "not looked for"
        return "not looked for: pip install 'temposync-pipeline[provenance]'" if unknown else layer["state"]
    who = "a test certificate, which proves nobody's identity" if layer["test_certificate"] else layer["signer"]
    said = ", ".join(text for text in (layer["source_type"], layer["generator"], layer["model"] and f"model {layer['model']}") if text)
    return f"{_STATES.get(layer['state'], layer['state'].lower())}, signed by {who}: {said}"
