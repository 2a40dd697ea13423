"""Latents of whole faces that move, and what is heard meanwhile: what the stages of READ learn from.

    python -m temposync_pipeline.training.face_latents --data DATA --labels LABELS --speaking PORTRAITS --output FACES

DATA holds talkers' clips and `portraits/*.jpg`, LABELS their landmarks (examples/label_faces.py), PORTRAITS the portraits made to speak
(examples/retarget_portraits.py), whose heads, lids and brows then move as their drivers' (`data.face_motion`).  A sequence lies in ONE
crop, that of its reference picture.  Writes FACES/faces_{train,val}.safetensors:

    latents     int8    [N, C, 16, 16]  in units of 1/24, 25 frames a second, sequence after sequence
    references  int8    [S, C, 16, 16]  the picture that a sequence's crop was taken from
    sequences   int64   [S, 3]          first frame, number of frames, first row of what is heard
    heard       float16 [M, F]          hidden state, shapes of the lips, visemes (`speech_features`)
    lips        float16 [M, 6]          the talker's lips at the same moments (`data.lip_tracks`), NaN where they are not known
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from ..data.arrays import read_arrays
from ..data.clips import frames_with_sound, load_landmarks, load_sound
from ..data.face_motion import blink_curve, close_lids, face_motion, move_face, moved_landmarks
from ..data.lip_tracks import lip_tracks
from ..data.manifest import Clip, build_manifest, portrait_split
from ..data.speaking_portraits import SpeakingPortrait
from ..face.crop import align_matrix, crop_face, transform_points
from ..face.lip_shape import NUM_LIP_SHAPE
from ..media.video import FPS, read_video
from ..metrics.offset import correct_clips
from ..models.autoencoder_temposync import AutoencoderTempoSync
from ..models.conditioning import encode_crops
from ..models.lip_motion import LipMotion
from ..models.speech_autoencoder import speech_features
from ..models.viseme_classifier import VisemeClassifier
from .latent_cache import save_cache

UNITS = 24
# Frames of a portrait that speaks: 4 latent frames of 8 after the first one.
PORTRAIT_FRAMES = 33


class FaceLatentsWriter:
    """Collects sequences and what was heard, and writes the file."""

    def __init__(self, vae: AutoencoderTempoSync):
        self.vae = vae
        self.latents, self.references, self.sequences, self.heard, self.lips = [], [], [], [], []
        self.rows: dict[str, int] = {}
        self.frames = self.moments = 0

    def hear(self, name: str, features: np.ndarray, lips: np.ndarray | None = None) -> None:
        """What is heard in a clip's frames, [T, F], and the shapes of its talker's lips, [T, 6], None where they are not known."""
        self.rows[name], self.moments = self.moments, self.moments + len(features)
        self.heard.append(torch.from_numpy(features).half())
        self.lips.append(torch.full((len(features), NUM_LIP_SHAPE), torch.nan).half() if lips is None else torch.from_numpy(lips).half())

    def add(self, reference: np.ndarray, crops: np.ndarray, clip: str, start: int) -> None:
        """Crops [T, 256, 256, 3] in the crop of their reference [256, 256, 3], that speak like a clip from its frame `start` on."""
        latents = encode_crops(self.vae, np.concatenate([reference[None], crops]))
        quantised = (UNITS * latents.float()).round().clamp(-127, 127).to(torch.int8).contiguous()
        self.references.append(quantised[:1])
        self.latents.append(quantised[1:])
        self.sequences.append((self.frames, len(crops), self.rows[clip] + start))
        self.frames += len(crops)

    def write(self, path: Path) -> None:
        save_cache({"latents": torch.cat(self.latents), "references": torch.cat(self.references), "sequences": torch.tensor(self.sequences),
                    "heard": torch.cat(self.heard), "lips": torch.cat(self.lips)}, path)


def add_talker(
    writer: FaceLatentsWriter, clip: Clip, classifier: VisemeClassifier, lip_motion: LipMotion, reference: int,
    lips: np.ndarray | None = None,
) -> slice:
    """A clip as it was filmed, in the crop of its frame `reference`; `lips` [T, 6] are the shapes of its talker's.

    Returns its frames that have sound, none where its face was not found in all of them: what portraits may take from it.
    """
    frames, _ = read_video(clip.video, fps=FPS)
    landmarks, samples = load_landmarks(clip.landmarks), load_sound(clip)
    heard = frames_with_sound(clip, len(frames), len(samples))
    if not np.isfinite(landmarks[heard]).all():
        return slice(0, 0)
    hearing = classifier.hear(samples, len(frames), FPS)
    writer.hear(clip.id, speech_features(hearing, lip_motion.predict(hearing)), lips)
    matrix = align_matrix(landmarks[heard][reference])
    crops = np.stack([crop_face(frame, matrix) for frame in frames[heard]])
    writer.add(crops[reference], crops, clip.id, heard.start)
    return heard


def add_portrait(writer: FaceLatentsWriter, speaking: SpeakingPortrait, landmarks: np.ndarray, driver: np.ndarray,
                 rng: np.random.Generator) -> None:
    """A portrait, with landmarks [131, 2] in its crop, that moves like its driver, whose landmarks [T, 131, 2] lie in one crop."""
    start, count = speaking.start, min(PORTRAIT_FRAMES, len(speaking.crops))
    motion = face_motion(driver, np.median(driver, 0))[start:start + count]
    motion.lids = np.minimum(motion.lids, blink_curve(count, rng)[:, None])
    crops = [move_face(close_lids(crop, landmarks, lids), landmarks, moved_landmarks(landmarks, motion, frame))
             for frame, (crop, lids) in enumerate(zip(speaking.crops, motion.lids))]
    writer.add(speaking.reference, np.stack(crops), speaking.driver, start)


def add_portraits(writer: FaceLatentsWriter, files: list[Path], shapes: dict[str, np.ndarray], drivers: dict[str, Clip],
                  heard: dict[str, slice], rng: np.random.Generator) -> None:
    """Speaking portraits, whose landmarks in their crops are `shapes` by name, those of them whose driver was heard all the while."""
    for path in tqdm(files, desc="portraits"):
        speaking = SpeakingPortrait.load(path)
        span = heard.get(speaking.driver, slice(0, 0))
        if speaking.start < span.start or speaking.start + min(PORTRAIT_FRAMES, len(speaking.crops)) > span.stop:
            continue
        landmarks = load_landmarks(drivers[speaking.driver].landmarks)
        matrix = align_matrix(np.median(landmarks, 0))
        add_portrait(writer, speaking, shapes[path.stem], transform_points(matrix, landmarks), rng)


def portrait_landmarks(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name without suffix, landmarks [131, 2] in its crop) of each portrait whose face was found."""
    names = read_arrays(path, "names")["names"].tolist()
    for name, points in zip(names, load_landmarks(path)):
        if np.isfinite(points).all():
            yield Path(name).stem, transform_points(align_matrix(points), points).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "labels", "speaking", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", default="temposync-tiny", help="checkpoint whose autoencoder and classifier are used")
    parser.add_argument("--portraits", type=int, default=0, help="only so many of each split, 0 = all")
    parser.add_argument("--clips", type=int, default=0, help="only so many of each split, 0 = all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    from ..pipelines.pipeline_temposync import TempoSyncPipeline

    pipe = TempoSyncPipeline.from_pretrained(arguments.model)
    vae = pipe.vae.to(torch.bfloat16 if pipe.use_bfloat16 else torch.float32)
    arguments.output.mkdir(parents=True, exist_ok=True)
    clips = [clip for clip in build_manifest(arguments.data, landmarks=arguments.labels) if clip.landmarks is not None]
    shapes = dict(portrait_landmarks(arguments.labels / "portraits.npz"))
    for split in ("val", "train"):
        rng = np.random.default_rng(arguments.seed)
        writer = FaceLatentsWriter(vae)
        own = [clip for clip in clips if clip.split == split]
        own = correct_clips(own[:arguments.clips or None], arguments.model, tqdm.write)
        heard, lips = {}, lip_tracks(own)
        for index, clip in enumerate(tqdm(own, desc=f"{split}: talkers")):
            # Every third clip's reference speaks already.
            reference = int(rng.integers(20, 50)) if index % 3 == 2 and split == "train" else 0
            heard[clip.id] = add_talker(writer, clip, pipe.viseme_classifier, pipe.lip_motion, reference, lips.get(clip.id))
        files = [path for path in sorted((arguments.speaking / split).glob("*.npz")) if path.stem in shapes
                 and portrait_split(path.stem) == split][:arguments.portraits or None]
        add_portraits(writer, files, shapes, {clip.id: clip for clip in own}, heard, rng)
        writer.write(arguments.output / f"faces_{split}.safetensors")
        print(f"{split}: {len(writer.sequences)} sequences, {writer.frames} frames, {writer.moments} frames of sound")


if __name__ == "__main__":
    main()
