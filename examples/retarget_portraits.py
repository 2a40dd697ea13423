"""Make portraits speak: the denoisers' training set of hundreds of identities.

    python examples/retarget_portraits.py --data DATA --labels LABELS --output OUT

DATA holds `portraits/*.jpg` and talkers' clips (`.../<talker>/<name>.mpg`); LABELS, from `examples/label_faces.py`, their landmarks.
Writes OUT/train/*.npz (training portraits, training talkers) and OUT/val/*.npz, one file a portrait (`SpeakingPortrait.load`).  With
`--talkers N`, N frames of every training clip take the portraits' place: a talker's own recording shows the face with a head that moves,
which no photo does.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from temposync_pipeline.data.clips import load_clip
from temposync_pipeline.data.manifest import Clip, build_manifest
from temposync_pipeline.data.speaking_portraits import Drivers, Portrait, has_balanced_light, load_portraits, speak


def talkers_as_portraits(clips: list[Clip], count: int, generator: np.random.Generator) -> Iterator[Portrait]:
    """The first frame of every clip, which is silent, and `count - 1` random ones."""
    for clip in clips:
        loaded = load_clip(clip)
        for index in [0, *generator.integers(1, len(loaded.crops), count - 1)]:
            yield Portrait(f"{clip.id}_{index}.jpg", loaded.crops[index].copy(), loaded.landmarks[index])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=40, help="consecutive frames a portrait")
    parser.add_argument("--takes", type=int, default=1, help="stretches a portrait, each of another clip")
    parser.add_argument("--talkers", type=int, default=0, metavar="N", help="animate N frames of each training clip in place of portraits")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    generator = np.random.default_rng(arguments.seed)
    clips = [clip for clip in build_manifest(arguments.data, landmarks=arguments.labels) if clip.landmarks is not None]
    if arguments.talkers:
        filmed = [clip for clip in clips if clip.split == "train"]
        portraits = {"train": list(talkers_as_portraits(filmed, arguments.talkers, generator))}
    else:
        found = load_portraits(arguments.data / "portraits", arguments.labels / "portraits.npz")
        portraits = {split: [portrait for portrait in found if portrait.split == split] for split in ("val", "train")}
    clips = [clip for clip in clips if has_balanced_light(clip)]
    for split, chosen in portraits.items():
        folder = arguments.output / split
        folder.mkdir(parents=True, exist_ok=True)
        drivers = Drivers([clip for clip in clips if clip.split == split], arguments.frames)
        generator.shuffle(chosen)
        for take in range(arguments.takes):
            for portrait, speaking in tqdm(speak(chosen, drivers, arguments.frames, generator), total=len(chosen), desc=f"{split} {take}"):
                stem = Path(portrait.name).stem
                speaking.save(folder / (f"{stem}.npz" if arguments.takes == 1 else f"{stem}_{take}.npz"))


if __name__ == "__main__":
    main()
