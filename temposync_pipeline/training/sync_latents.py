"""Encode talkers' clips and speaking portraits, every frame with its sound, for the stage `sync`.

    python -m temposync_pipeline.training.sync_latents --data DATA --labels LABELS --vae VAE --output SYNC [--portraits PORTRAITS]

DATA holds talkers' clips (`.../<talker>/<name>.mpg`), LABELS their landmarks (examples/label_faces.py), PORTRAITS the portraits made
to speak (examples/retarget_portraits.py), which take the sound of the clip that drove them.  Writes `talkers_{train,val}.safetensors`
and `portraits_train.safetensors` (`data.sync_corpus`).
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..checkpoints import BUNDLED
from ..data.clips import load_clip, load_sound
from ..data.manifest import build_manifest
from ..data.speaking_portraits import SpeakingPortrait
from ..data.sync_corpus import SyncClip, save_corpus
from ..media.video import load_soundtrack
from ..metrics.offset import correct_clips
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.conditioning import encode_crops, latent_window
from .latent_cache import load_encoder


def talker_clips(vae: AutoencoderTempoSync, data: Path, labels: Path, split: str) -> Iterable[SyncClip]:
    clips = correct_clips([clip for clip in build_manifest(data, landmarks=labels) if clip.split == split], BUNDLED[0], tqdm.write)
    for clip in tqdm(clips, desc=f"talkers, {split}"):
        yield SyncClip(latent_window(encode_crops(vae, load_clip(clip).crops)).half().contiguous(), load_sound(clip))


def portrait_clips(vae: AutoencoderTempoSync, data: Path, folder: Path) -> Iterable[SyncClip]:
    videos = {clip.id: clip.video for clip in build_manifest(data)}
    recordings: dict[str, np.ndarray] = {}
    for path in tqdm(sorted((folder / "train").glob("*.npz")), desc="portraits"):
        speaking = SpeakingPortrait.load(path)
        if speaking.driver not in recordings:
            recordings[speaking.driver] = load_soundtrack(videos[speaking.driver]).samples
        yield SyncClip(latent_window(encode_crops(vae, speaking.crops)).half().contiguous(), recordings[speaking.driver], speaking.start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "labels", "vae", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--portraits", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    vae = load_encoder(arguments.vae, arguments.device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for split in ("val", "train"):
        save_corpus(talker_clips(vae, arguments.data, arguments.labels, split), arguments.output / f"talkers_{split}.safetensors")
    if arguments.portraits:
        clips = portrait_clips(vae, arguments.data, arguments.portraits)
        save_corpus(clips, arguments.output / "portraits_train.safetensors")


if __name__ == "__main__":
    main()
