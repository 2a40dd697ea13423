"""Make portraits speak: the denoisers' training set of hundreds of identities.

    python examples/retarget_portraits.py --data DATA --labels LABELS --output OUT

DATA holds `portraits/*.jpg` and talkers' clips (`.../<talker>/<name>.mpg`); LABELS, from `examples/label_faces.py`, their landmarks.
Writes OUT/train/*.npz (training portraits, training talkers) and OUT/val/*.npz, one file a portrait (`SpeakingPortrait.load`).
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from temposync_pipeline.data.manifest import build_manifest
from temposync_pipeline.data.speaking_portraits import Drivers, has_balanced_light, load_portraits, speak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=40, help="consecutive frames a portrait")
    parser.add_argument("--takes", type=int, default=1, help="stretches a portrait, each of another clip")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    generator = np.random.default_rng(arguments.seed)
    portraits = load_portraits(arguments.data / "portraits", arguments.labels / "portraits.npz")
    clips = [clip for clip in build_manifest(arguments.data, landmarks=arguments.labels)
             if clip.landmarks is not None and has_balanced_light(clip)]
    for split in ("val", "train"):
        folder = arguments.output / split
        folder.mkdir(parents=True, exist_ok=True)
        drivers = Drivers([clip for clip in clips if clip.split == split], arguments.frames)
        chosen = [portrait for portrait in portraits if portrait.split == split]
        generator.shuffle(chosen)
        for take in range(arguments.takes):
            for portrait, speaking in tqdm(speak(chosen, drivers, arguments.frames, generator), total=len(chosen), desc=f"{split} {take}"):
                stem = Path(portrait.name).stem
                speaking.save(folder / (f"{stem}.npz" if arguments.takes == 1 else f"{stem}_{take}.npz"))


if __name__ == "__main__":
    main()
