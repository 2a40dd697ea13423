"""Stage `latents`: encode talkers' clips and speaking portraits once, for the denoiser stages.

    python -m temposync_pipeline.training.latents --data DATA --labels LABELS --portraits PORTRAITS --filmed FILMED \\
        --visemes runs/visemes --vae runs/autoencoder --output LATENTS

DATA holds talkers' clips (`.../<talker>/<name>.mpg`), LABELS their landmarks (examples/label_faces.py), PORTRAITS the portraits made to
speak (examples/retarget_portraits.py), FILMED, where given, those of its option --talkers; --visemes and --vae are the folders of
trained networks, or of a checkpoint.  With several --visemes each sequence is heard by one of them, so that what learns from it depends on
none.  Sound that is late is moved (`metrics.offset`).  Writes `{talkers,portraits}_{train,val}.safetensors`
and `filmed_train.safetensors`.

Without labels of another tool, `training.clip_latents` does the same with the bundled networks.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints import BUNDLED
from ..data.clips import frames_with_sound, load_clip, load_landmarks, load_sound
from ..data.lip_tracks import lip_tracks
from ..data.manifest import Clip, build_manifest
from ..data.speaking_portraits import SpeakingPortrait
from ..face.landmarks import lip_opening
from ..media.video import FPS
from ..metrics.offset import correct_clips
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.conditioning import viseme_windows
from ..models.viseme_classifier import VisemeClassifier
from .denoising import load_component
from .latent_cache import LatentCacheWriter, frame_mel, load_encoder

VISEME_WINDOW = 11
# A portrait's neighbouring frames teach nearly the same: every second one is kept for training.
TRAINING_STRIDE = 2


class HeardVisemes:
    """Probabilities [T, 15] by clip id, at each look those of one of the classifiers."""

    def __init__(self, classifiers: list[VisemeClassifier], clips: list[Clip], seed: int = 0):
        self.generator = np.random.default_rng(seed)
        self.by_clip = {clip.id: [classifier.predict(load_sound(clip), len(load_landmarks(clip.landmarks)), FPS)
                                  for classifier in classifiers] for clip in tqdm(clips, desc="visemes")}

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.by_clip

    def __getitem__(self, clip_id: str) -> np.ndarray:
        heard = self.by_clip[clip_id]
        return heard[self.generator.integers(len(heard))]


def balanced_repeats(clips: list[Clip]) -> dict[str, int]:
    """How often each talker's clips count: a talker's share of the batches grows with the root of the number of the talker's clips."""
    clips_of = Counter(clip.talker for clip in clips)
    most = max(clips_of.values(), default=1)
    return {talker: round((most / count) ** 0.5) for talker, count in clips_of.items()}


def cache_talkers(vae: AutoencoderTempoSync, clips: list[Clip], visemes: HeardVisemes, lips: dict[str, np.ndarray],
                  split: str, output: Path) -> None:
    writer = LatentCacheWriter(vae)
    clips = [clip for clip in clips if clip.split == split]
    repeats = balanced_repeats(clips)
    for index, clip in enumerate(tqdm(clips, desc=f"talkers, {split}")):
        loaded = load_clip(clip)
        # Half of them are mirrored: so few faces, each with one-sided habits.
        crops = loaded.crops[:, :, ::-1] if split == "train" and index % 2 else loaded.crops
        samples = load_sound(clip)
        heard = frames_with_sound(clip, len(crops), len(samples))
        writer.add(crops[heard], viseme_windows(visemes[clip.id], VISEME_WINDOW)[heard], mel=frame_mel(samples, len(crops))[heard],
                   opening=lip_opening(loaded.landmarks)[heard], lips=lips[clip.id][heard] if clip.id in lips else None,
                   repeats=repeats[clip.talker])
    if clips:
        writer.write(output / f"talkers_{split}.safetensors")


def cache_portraits(
    vae: AutoencoderTempoSync, folder: Path, visemes: HeardVisemes, lips: dict[str, np.ndarray], split: str, output: Path,
    name: str = "portraits", seed: int = 0,
) -> None:
    """Half of the portraits are mirrored: the talkers' one-sided habits and the photographs' key light must not become a rule."""
    writer, generator = LatentCacheWriter(vae), np.random.default_rng(seed)
    for path in tqdm(sorted((folder / split).glob("*.npz")), desc=f"{name}, {split}"):
        speaking = SpeakingPortrait.load(path)
        if speaking.driver not in visemes:
            continue
        spoken = slice(speaking.start, speaking.start + len(speaking.crops))
        windows = viseme_windows(visemes[speaking.driver], VISEME_WINDOW)[spoken]
        crops, reference = speaking.crops, speaking.reference[None]
        if generator.random() < 0.5:
            crops, reference = crops[:, :, ::-1], reference[:, :, ::-1]
        # A frame in the middle of a word is a reference too: users' photos do not all smile.
        extra = crops[generator.integers(len(crops), size=2)]
        kept = slice(int(generator.integers(TRAINING_STRIDE)), None, TRAINING_STRIDE)
        writer.add(crops[kept], windows[kept], references=np.concatenate([reference, extra]),
                   opening=lip_opening(speaking.landmarks)[kept], lips=lips[speaking.driver][spoken][kept])
    if writer.sequences:
        writer.write(output / f"{name}_{split}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "labels", "portraits", "vae", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--visemes", type=Path, required=True, action="append")
    parser.add_argument("--filmed", type=Path)
    parser.add_argument("--without", action="append", default=[], metavar="CLIP_ID", help="leave a clip out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=["talkers_train", "talkers_val", "portraits_train", "portraits_val"], action="append")
    arguments = parser.parse_args()
    vae = load_encoder(arguments.vae, arguments.device, subfolder="vae" if (arguments.vae / "vae").is_dir() else None)
    classifiers = [load_component(VisemeClassifier, str(folder), "viseme_classifier", torch.device(arguments.device))
                   for folder in arguments.visemes]
    arguments.output.mkdir(parents=True, exist_ok=True)
    clips = [clip for clip in build_manifest(arguments.data, landmarks=arguments.labels)
             if clip.landmarks is not None and clip.id not in arguments.without]
    clips = correct_clips(clips, BUNDLED[0], print)
    visemes, lips = HeardVisemes(classifiers, clips), lip_tracks(clips)
    for split in ("val", "train"):
        if not arguments.only or f"talkers_{split}" in arguments.only:
            cache_talkers(vae, clips, visemes, lips, split, arguments.output)
        if not arguments.only or f"portraits_{split}" in arguments.only:
            cache_portraits(vae, arguments.portraits, visemes, lips, split, arguments.output)
    if arguments.filmed:
        cache_portraits(vae, arguments.filmed, visemes, lips, "train", arguments.output, name="filmed")


if __name__ == "__main__":
    main()
