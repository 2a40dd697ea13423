"""What marks a video bears, layer by layer."""

from os import PathLike
from pathlib import Path
from typing import Any

from ..checkpoints import BUNDLED, checkpoint_folder, public_name
from ..errors import InvalidVideoError
from ..media.gif import gif_comment, is_gif
from ..media.video import read_tags, stream_video
from ..models.face_aligner import FaceAligner
from .credentials import read_credentials
from .origin import NOTICE, model_identifier
from .reading import read_watermark


def verify_video(path: str | PathLike, aligner: FaceAligner | None = None) -> dict[str, Any]:
    """Look for every mark that this package makes.

    Args:
        path: any video file that `media.video` reads, also one that was encoded, scaled or cut again, or a GIF.
        aligner: finds the faces; None takes the bundled one.

    Returns:
        {"marked": whether any layer says that the video is generated, "watermark": {"found", and with a face "score", "false_alarm" (an
        upper bound of the probability of such a score without a mark), and where found "identifier", 8 hexadecimal digits, and "model",
        the bundled model's name or None}, "metadata": {"found", "comment"}, "credentials": as `credentials.read_credentials` has them}.

    Raises InvalidVideoError and OSError.
    """
    layers = {"watermark": _watermark(path, aligner or _bundled_aligner()), "metadata": _metadata(path),
              "credentials": read_credentials(path)}
    marked = any(layer["found"] for layer in layers.values())
    if not (marked or layers["watermark"]["face"] or is_gif(path)) and next(stream_video(path, 1)[0], None) is None:
        raise InvalidVideoError(f"{Path(path).name}: no frame could be decoded")  # nothing was looked at
    return {"marked": marked, **layers}


def _bundled_aligner() -> FaceAligner:
    return FaceAligner.from_pretrained(
        checkpoint_folder(BUNDLED[0], ("face_aligner",)), subfolder="face_aligner", use_safetensors=True)


def _watermark(path: str | PathLike, aligner: FaceAligner) -> dict[str, Any]:
    reading = read_watermark(path, aligner)
    if reading is None:
        return {"found": False, "face": False}
    report = {"found": reading.is_marked, "face": True, "score": round(reading.score, 2), "false_alarm": reading.false_alarm}
    if not reading.is_marked:
        return report
    known = {model_identifier(*public_name(name, checkpoint_folder(name, ()))): name for name in BUNDLED}
    return report | {"identifier": f"{reading.identifier:08x}", "model": known.get(reading.identifier)}


def read_comment(path: str | PathLike) -> str | None:
    """What a video or GIF says of itself; raises InvalidVideoError and OSError for what is neither."""
    return gif_comment(path) if is_gif(path) else read_tags(path).get("comment")


def _metadata(path: str | PathLike) -> dict[str, Any]:
    comment = read_comment(path)
    return {"found": bool(comment and comment.startswith(NOTICE)), "comment": comment}
