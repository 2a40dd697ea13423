"""A contact sheet of portraits made to speak: fifteen visemes by eight people.

    python examples/retarget_sheet.py --data DATA --labels LABELS --visemes VISEMES.npz --output sheet.png

DATA and LABELS as in `examples/retarget_portraits.py`; VISEMES.npz holds one integer array [T] into `VISEMES` per clip id.  The first
row are the photographs; each other row takes its motion and the inside of its mouths from the frame of a training talker that shows that
viseme clearly.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from temposync_pipeline.data.clips import load_clip
from temposync_pipeline.data.manifest import Clip, build_manifest
from temposync_pipeline.data.retarget import retarget
from temposync_pipeline.data.speaking_portraits import Drivers, Portrait, has_balanced_light, load_portraits, rough_crop_landmarks
from temposync_pipeline.data.viseme_shapes import mean_viseme_shapes
from temposync_pipeline.face.landmarks import lip_opening
from temposync_pipeline.models.visemes import VISEMES

SHOWN = slice(84, 252), slice(30, 226)  # rows and columns of the crop
CONTEXT = 6  # frames before and after, for smoothing and for the driver's teeth


def choose_people(portraits: list[Portrait]) -> list[Portrait]:
    """Five who smile with their teeth, from the widest down, and three whose lips are closed; none of whom any model is trained on."""
    held_out = sorted((portrait for portrait in portraits if portrait.split == "val"), key=lambda portrait: lip_opening(portrait.landmarks))
    return held_out[::-1][:10:2] + held_out[:6:2]


def row(name: str, pictures: list[np.ndarray]) -> np.ndarray:
    """One viseme's pictures side by side under its name."""
    strip = np.concatenate([picture[SHOWN] for picture in pictures], 1)
    title = np.full((26, strip.shape[1], 3), 255, np.uint8)
    cv2.putText(title, name, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([title, strip])


def clear_frames(clips: list[Clip], labels: dict[str, np.ndarray], drivers: Drivers) -> list[tuple[Clip, int]]:
    """For every viseme a clip and a frame."""
    landmarks = [rough_crop_landmarks(clip) for clip in clips]
    _, places = mean_viseme_shapes(landmarks, [labels[clip.id] for clip in clips], [drivers.rests[clip.talker] for clip in clips])
    return [(clips[index], frame) for index, frame in places]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "labels", "visemes", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--talkers", nargs="*", help="take the visemes from these talkers only")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with np.load(arguments.visemes) as file:
        labels = {name: file[name] for name in file.files}
    people = choose_people(load_portraits(arguments.data / "portraits", arguments.labels / "portraits.npz"))
    clips = [clip for clip in build_manifest(arguments.data, arguments.labels)
             if clip.split == "train" and clip.landmarks is not None and clip.id in labels
             and (not arguments.talkers or clip.talker in arguments.talkers) and has_balanced_light(clip)]
    drivers = Drivers(clips, min_frames=2 * CONTEXT + 1)
    rows = [row("photograph", [portrait.crop for portrait in people])]
    for viseme, (clip, frame) in zip(VISEMES, clear_frames(clips, labels, drivers)):
        source = load_clip(clip)
        start = max(0, frame - CONTEXT)
        window = slice(start, frame + CONTEXT + 1)
        pictures = [retarget(portrait.crop, portrait.landmarks, source.landmarks[window], source.crops[window],
                             drivers.rests[clip.talker])[0][frame - start] for portrait in people]
        rows.append(row(f"{viseme}  ({clip.id}, frame {frame})", pictures))
    # Two columns of eight rows make a sheet that fits a screen.
    sheet = np.concatenate([np.concatenate(rows[:8]), np.concatenate(rows[8:])], 1)
    cv2.imwrite(str(arguments.output), sheet[..., ::-1])
    print(arguments.output)


if __name__ == "__main__":
    main()
