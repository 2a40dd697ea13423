"""A contact sheet of speaking mouths at four times the crop's scale: each photograph, and frames of it from the widest open to nearly shut.

    python examples/mouth_sheet.py --photos PHOTOS --audio examples/media/speech_weather.wav --output sheet.png --held-out

PHOTOS are pictures, folders of pictures, or clips, whose first frame counts.  Several models come one below the other, with the same noise
and the same frames, so that the eye can compare them.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from temposync_pipeline import TempoSyncPipeline
from temposync_pipeline.data.manifest import VIDEO_SUFFIXES
from temposync_pipeline.data.motion_pairs import held_out_person
from temposync_pipeline.face.crop import crop_face
from temposync_pipeline.face.landmarks import lip_opening
from temposync_pipeline.media.image import load_image
from temposync_pipeline.media.video import read_video

# Rows and columns of the crop that are shown, how much larger, and which frames: shares of those that are open wider.
SHOWN, ZOOM, SHARES = (slice(138, 214), slice(72, 184)), 4, (0.0, 0.08, 0.2, 0.4, 0.7)


def pictures_in(paths: list[Path], held_out: bool) -> list[Path]:
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [file for file in files if file.suffix.lower() in (".jpg", ".jpeg", ".png", *VIDEO_SUFFIXES)]
    return [file for file in files if not held_out or held_out_person(file.name)]


def enlarged(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    rows, columns = SHOWN
    to_sheet = ZOOM * (matrix - np.float32([[0, 0, columns.start], [0, 0, rows.start]]))
    size = ZOOM * (columns.stop - columns.start), ZOOM * (rows.stop - rows.start)
    return cv2.warpAffine(picture, to_sheet, size, flags=cv2.INTER_CUBIC)


def speaking_row(
    pipe: TempoSyncPipeline, photo: np.ndarray, audio: Path, steps: int, chosen: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The row of one photograph, and which frames it shows: those `chosen`, else by how far the mouth is open."""
    frames = np.concatenate(list(pipe.stream(photo, audio, steps, torch.Generator().manual_seed(0), max_size=0)))
    matrix = pipe.prepare_portrait(photo, max_size=0).matrix
    if chosen is None:
        crops = np.stack([crop_face(frame, matrix) for frame in frames])
        order = np.argsort(-lip_opening(pipe.face_aligner.track(crops)))
        chosen = order[[round(share * (len(order) - 1)) for share in SHARES]]
    return np.hstack([enlarged(picture, matrix) for picture in (photo, *frames[chosen])]), chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=["temposync-tiny"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--held-out", action="store_true", help="of a folder `<person>_….jpg`, only people no network was trained on")
    arguments = parser.parse_args()
    pipes = [TempoSyncPipeline.from_pretrained(model) for model in arguments.model]
    rows = []
    for file in pictures_in(arguments.photos, arguments.held_out):
        photo, chosen = read_video(file, max_frames=1)[0][0] if file.suffix.lower() in VIDEO_SUFFIXES else load_image(file), None
        for pipe in pipes:
            row, chosen = speaking_row(pipe, photo, arguments.audio, arguments.steps, chosen)
            rows.append(row)
    cv2.imwrite(str(arguments.output), np.vstack(rows)[..., ::-1])


if __name__ == "__main__":
    main()
