"""Pack aligned crops of talkers and portraits into arrays: what the autoencoder stage trains on.

    python -m temposync_pipeline.data.pack --data DATA --labels LABELS --output CROPS

DATA holds `portraits/*.jpg` and talkers' clips (`.../<talker>/<name>.mpg`), LABELS their landmarks (examples/label_faces.py).  Writes
`{portraits,talkers,talkers_hq}_{train,val}.npy`, uint8 [N, 256, 256, 3]; clips recorded at more than 500 lines count as `talkers_hq`.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..media.video import FPS, read_video
from .clips import load_clip
from .manifest import build_manifest
from .speaking_portraits import load_portraits

HIGH_RESOLUTION_LINES = 500
# Neighbouring frames are nearly the same picture.
STRIDES = {"talkers_train": 2, "talkers_hq_train": 1, "talkers_val": 3, "talkers_hq_val": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "labels", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    packs: dict[str, list[np.ndarray]] = {}
    for portrait in load_portraits(arguments.data / "portraits", arguments.labels / "portraits.npz"):
        packs.setdefault(f"portraits_{portrait.split}", []).append(portrait.crop[None])
    for clip in tqdm(build_manifest(arguments.data, landmarks=arguments.labels), desc="clips"):
        frames, _ = read_video(clip.video, fps=FPS)
        kind = "talkers_hq" if frames.shape[1] > HIGH_RESOLUTION_LINES else "talkers"
        name = f"{kind}_{clip.split}"
        packs.setdefault(name, []).append(load_clip(clip, frames=frames).crops[::STRIDES[name]])
    for name, crops in packs.items():
        np.save(arguments.output / f"{name}.npy", np.concatenate(crops))
        print(f"{name}: {sum(map(len, crops))} crops")


if __name__ == "__main__":
    main()
