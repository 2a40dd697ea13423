"""Views of many people as latents, encoded once: what the identity stage trains on.

    python -m temposync_pipeline.training.identity_views --data DATA --labels LABELS --portraits PORTRAITS --vae VAE --output VIEWS

DATA holds talkers' clips (`.../<talker>/<name>.mpg`), LABELS their landmarks (examples/label_faces.py), PORTRAITS the portraits made to
speak (examples/retarget_portraits.py).  Writes `{train,val}.safetensors`, each with

    latents     float16 [N, C, 16, 16]  aligned crops
    identity    int64   [N]             who it is
    recording   int64   [N]             the clip or photograph it comes from
    filmed      bool    [N]             a talker's frame; the others are photographs, some of them made to speak
    plain       bool    [N]             as recorded; the others are pixel augmentations (`data.identity_views`)
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from ..data.clips import load_clip
from ..data.identity_views import augment_view
from ..data.manifest import build_manifest
from ..data.speaking_portraits import SpeakingPortrait
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.conditioning import encode_crops
from .latent_cache import load_encoder

# A talker with sixty clips would teach little more than with ten.
CLIPS_PER_TALKER = 10
FRAMES_PER_CLIP = 6


class IdentityViewsWriter:
    """Collects the views of one split; `add` once a recording."""

    def __init__(self, vae: AutoencoderTempoSync, seed: int = 0):
        self.vae = vae
        self.generator = np.random.default_rng(seed)
        self.latents: list[torch.Tensor] = []
        self.labels: list[tuple[int, int, bool, bool]] = []
        self.identities: dict[str, int] = {}
        self.recordings = 0

    def add(self, identity: str, crops: np.ndarray, augmented: np.ndarray, filmed: bool) -> None:
        """One recording of `identity`: `crops` uint8 [T, 256, 256, 3], and for each whether it is to be augmented, bool [T]."""
        number = self.identities.setdefault(identity, len(self.identities))
        views = np.stack([augment_view(crop, self.generator) if change else crop for crop, change in zip(crops, augmented)])
        self.latents.append(encode_crops(self.vae, views).half())
        self.labels += [(number, self.recordings, filmed, not change) for change in augmented]
        self.recordings += 1

    def write(self, path: Path) -> None:
        identity, recording, filmed, plain = torch.tensor(self.labels).T.contiguous().unbind()
        save_file({"latents": torch.cat(self.latents).contiguous(), "identity": identity.clone(), "recording": recording.clone(),
                   "filmed": filmed.bool(), "plain": plain.bool()}, path)


def add_clip(writer: IdentityViewsWriter, talker: str, crops: np.ndarray) -> None:
    """Frames spread over a clip; every third one plain, because real frames move and talk by themselves."""
    kept = crops[np.linspace(0, len(crops) - 1, FRAMES_PER_CLIP).astype(int)]
    writer.add(talker, kept, np.arange(len(kept)) % 3 > 0, filmed=True)


def add_portrait(writer: IdentityViewsWriter, name: str, photograph: np.ndarray, speaking: np.ndarray) -> None:
    """The photograph and a speaking frame, plain and augmented each: other mouths, the same person."""
    frames = speaking[writer.generator.integers(len(speaking), size=2)]
    writer.add(name, np.stack([photograph, photograph, *frames]), np.array([False, True, True, False]), filmed=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "labels", "portraits", "vae", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    vae = load_encoder(arguments.vae, arguments.device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    clips = build_manifest(arguments.data, landmarks=arguments.labels)
    for split in ("val", "train"):
        writer, used = IdentityViewsWriter(vae), {}
        for clip in tqdm([clip for clip in clips if clip.split == split and clip.landmarks], desc=f"talkers, {split}"):
            used[clip.talker] = used.get(clip.talker, 0) + 1
            if used[clip.talker] <= CLIPS_PER_TALKER:
                add_clip(writer, clip.talker, load_clip(clip).crops)
        for path in tqdm(sorted((arguments.portraits / split).glob("*.npz")), desc=f"portraits, {split}"):
            speaking = SpeakingPortrait.load(path)
            add_portrait(writer, path.stem, speaking.reference, speaking.crops)
        writer.write(arguments.output / f"{split}.safetensors")


if __name__ == "__main__":
    main()
