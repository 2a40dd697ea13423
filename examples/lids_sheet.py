"""A sheet of eyes at four times the crop's scale: as in the photo, half closed, and shut.

    python examples/lids_sheet.py --photos PHOTOS --output docs/results/lids.jpg

Eyes that stay as they are (`face.life`) are shown so.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from temposync_pipeline import TempoSyncPipeline
from temposync_pipeline.face.life import SHUT_OPENING, Life, LivingPhoto
from temposync_pipeline.face.mouth_box import Patch
from temposync_pipeline.media.image import load_image

# Rows and columns of the crop that are shown, how much larger, and what the frames do.
SHOWN, ZOOM = (slice(60, 112), slice(66, 190)), 4
LIVES = [Life(1.0, np.zeros(6)), Life(0.5, np.zeros(6)), Life(SHUT_OPENING, np.zeros(6))]


def row(pipe: TempoSyncPipeline, file: Path) -> np.ndarray:
    photo = load_image(file)
    portrait = pipe.prepare_portrait(photo, max_size=0)
    living = LivingPhoto(portrait.photo, portrait.matrix, portrait.landmarks, portrait.sureness)
    rows, columns = SHOWN
    to_sheet = ZOOM * (portrait.matrix - np.float32([[0, 0, columns.start], [0, 0, rows.start]]))
    size = ZOOM * (columns.stop - columns.start), ZOOM * (rows.stop - rows.start)
    frames = [living.patch(Patch(0, 0, photo[:0, :0]), life).onto(photo) for life in LIVES]
    print(file.name, "" if living.can_blink else "stays as it is")
    return np.hstack([cv2.warpAffine(frame, to_sheet, size, flags=cv2.INTER_CUBIC) for frame in frames])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--quality", type=int, default=75, help="of a JPEG")
    arguments = parser.parse_args()
    pipe = TempoSyncPipeline.from_pretrained("temposync-tiny")
    sheet = np.vstack([row(pipe, file) for file in arguments.photos])
    cv2.imwrite(str(arguments.output), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, arguments.quality])


if __name__ == "__main__":
    main()
