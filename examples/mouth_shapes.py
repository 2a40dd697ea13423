"""Contact sheet of mouth shapes: each portrait beside the frames in which a recording most clearly calls for p, aa, ou, f and silence.

    python examples/mouth_shapes.py --audio examples/media/speech_apples.wav --output mouth_shapes.jpg examples/media/portrait_*.jpg
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from temposync_pipeline import TempoSyncPipeline
from temposync_pipeline.face.crop import align_matrix, crop_face
from temposync_pipeline.media.image import load_image
from temposync_pipeline.models.visemes import VISEMES

SHOWN = {"PP": "p b m", "aa": "aa", "ou": "ou", "FF": "f v", "sil": "silence"}
HEIGHT, WIDTH, CAPTION = 200, 176, 22


def face(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The aligned face without hair and shoulders, uint8 [HEIGHT, WIDTH, 3]."""
    return crop_face(picture, matrix)[50:50 + HEIGHT, 40:40 + WIDTH]


def row(pipe: TempoSyncPipeline, portrait: Path, audio: Path, steps: int) -> list[np.ndarray]:
    photo = load_image(portrait)
    matrix = align_matrix(pipe.face_aligner.detect(photo)[0].landmarks)
    output = pipe(photo, audio, num_inference_steps=steps, output_type="np", generator=torch.Generator().manual_seed(0))
    frames = [int(output.visemes[:, VISEMES.index(name)].argmax()) for name in SHOWN]
    return [face(photo, matrix)] + [face(np.rint(255 * output.frames[frame]).astype(np.uint8), matrix) for frame in frames]


def captions() -> np.ndarray:
    strip = np.full((CAPTION, WIDTH * (len(SHOWN) + 1), 3), 255, np.uint8)
    for column, text in enumerate(["portrait", *SHOWN.values()]):
        cv2.putText(strip, text, (column * WIDTH + 6, CAPTION - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return strip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("portraits", type=Path, nargs="+")
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="temposync-tiny")
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    pipe = TempoSyncPipeline.from_pretrained(arguments.model)
    rows = [np.concatenate(row(pipe, portrait, arguments.audio, arguments.steps), 1) for portrait in arguments.portraits]
    cv2.imwrite(str(arguments.output), np.concatenate([captions(), *rows])[..., ::-1])


if __name__ == "__main__":
    main()
