"""From a folder of clips (and photographs) to the latents that the denoiser stages train on, with nothing but a checkpoint's own networks.

    python -m temposync_pipeline.training.clip_latents --data CLIPS --output LATENTS

The stages do this by themselves where `--data` is a folder of clips; with the command several runs share one result.  It leaves in LATENTS

    manifest.jsonl                       the clips that were used, with their splits
    landmarks/<clip id>.npz              tracked by the face aligner
    parts/<clip id>.safetensors          encoded clip by clip, until they are joined: an interrupted preparation goes on where it stopped
    {talkers,portraits}_{train,val}.safetensors    `training.latent_cache`
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..checkpoints import checkpoint_folder
from ..checkpoints.files import INDEX
from ..data.clips import frames_with_sound, load_landmarks, load_sound
from ..data.manifest import Clip, hold_out_clips, read_manifest, split_by_talker, usable_clips, write_manifest
from ..data.speaking_portraits import Drivers, load_portraits, speak
from ..data.tracking import face_spans, find_portraits, track_clip
from ..errors import InvalidInputError
from ..face.crop import align_matrix, crop_face, smooth_matrices
from ..face.landmarks import lip_opening
from ..face.lip_shape import NUM_LIP_SHAPE
from ..media.image import PICTURE_SUFFIXES
from ..media.video import FPS, stream_video
from ..metrics.linear_baseline import LinearBaseline
from ..metrics.offset import OffsetEstimator, describe_offset
from ..metrics.optional_components import load_optional
from ..models.conditioning import viseme_windows
from ..models.face_aligner import FaceAligner
from ..models.lip_motion import LipMotion
from ..models.viseme_classifier import VisemeClassifier
from ..terminal import say
from .latent_cache import LatentCacheWriter, frame_mel, join_caches, load_encoder
from .latents import VISEME_WINDOW

# Consecutive frames that a photograph is made to speak.
PORTRAIT_FRAMES = 40


def is_latent_cache(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.safetensors"))


class ClipEncoder:
    """The frozen networks of a checkpoint that turn recordings into training data."""

    def __init__(self, checkpoint: str, device: str = "cpu"):
        index = json.loads((checkpoint_folder(checkpoint, ()) / INDEX).read_text(encoding="utf-8"))
        hears_lips = index.get("lip_motion", [None])[0] is not None
        folder = checkpoint_folder(checkpoint, ["face_aligner", "viseme_classifier", "vae", *["lip_motion"] * hears_lips])
        self.aligner = FaceAligner.from_pretrained(folder, subfolder="face_aligner", torch_dtype=torch.float32).to(device).eval()
        self.classifier = VisemeClassifier.from_pretrained(folder, subfolder="viseme_classifier").to(device).eval()
        self.vae = load_encoder(folder, device, subfolder="vae")
        self.lip_motion = LipMotion.from_pretrained(folder, subfolder="lip_motion").to(device).eval() if hears_lips else None
        baseline = load_optional(LinearBaseline, str(folder), "linear_baseline_hidden", device)
        self.offsets = OffsetEstimator.of_networks(self.classifier, self.lip_motion, baseline)

    def correct_offset(self, clip: Clip) -> Clip:
        """A tracked clip that knows how late its sound is, where that can be told."""
        return clip if self.offsets is None else self.offsets.correct(clip, load_landmarks(clip.landmarks))

    def hear(self, samples: np.ndarray, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Viseme windows [T, 11, 15] and shapes of the lips [T, 6] as the checkpoint hears them in a clip's sound, not as they were filmed:
        how far a person's lips differ from what any voice lets expect is what there is to learn."""
        hearing = self.classifier.hear(samples, num_frames, FPS)
        lips = self.lip_motion.predict(hearing) if self.lip_motion else np.full((num_frames, NUM_LIP_SHAPE), np.nan, np.float32)
        return viseme_windows(hearing.visemes, VISEME_WINDOW), lips

    def encode(self, clip: Clip, path: Path) -> None:
        """Write a tracked clip's latents; raises InvalidInputError where it shows no face for long enough or cannot be decoded."""
        landmarks, samples, writer = load_landmarks(clip.landmarks), load_sound(clip), LatentCacheWriter(self.vae)
        heard = frames_with_sound(clip, len(landmarks), len(samples))
        landmarks[:heard.start], landmarks[heard.stop:] = np.nan, np.nan
        spans = face_spans(landmarks)
        if not spans:
            raise InvalidInputError(f"{clip.video.name}: no face")
        (windows, lips), mel = self.hear(samples, len(landmarks)), frame_mel(samples, len(landmarks))
        frames = enumerate(stream_video(clip.video, fps=FPS)[0])
        for span in spans:
            matrices = smooth_matrices(np.stack([align_matrix(points) for points in landmarks[span]]))
            crops = [crop_face(frame, matrices[index - span.start]) for index, frame in _until(frames, span.stop) if index >= span.start]
            writer.add(np.stack(crops), windows[span], mel=mel[span], opening=lip_opening(landmarks[span]), lips=lips[span])
        writer.write(path)


def _until(frames: Iterable[tuple[int, np.ndarray]], stop: int) -> Iterable[tuple[int, np.ndarray]]:
    for index, frame in frames:
        yield index, frame
        if index == stop - 1:
            return


def prepare_latents(data: Path, output: Path, checkpoint: str, device: str = "cpu", by_talker: bool = False,
                    report: Callable[[str], None] = lambda line: say(line, err=True)) -> None:
    """Fill the folder `output` from clips, unless an earlier call has; clips that cannot be used are reported in a line each.

    Args:
        data: a folder of clips, in any depth, or a manifest. Pictures in its folder `portraits` are made to speak like the talkers.
        checkpoint: whose networks track, listen and encode: a bundled name, a directory, or org/name.
        by_talker: hold out whole talkers for validation, to train from scratch; else some clips of each talker, to fine-tune.

    Raises:
        InvalidInputError: no usable clip.
    """
    clips = read_manifest(data)
    pictures = sorted(path for path in (data / "portraits").glob("*") if path.suffix.lower() in PICTURE_SUFFIXES) if data.is_dir() else []
    files = [*(clip.video for clip in clips), *pictures]
    source = json.dumps([str(checkpoint), by_talker, [clip.offset for clip in clips],
                         *([str(path.absolute()), path.stat().st_size, path.stat().st_mtime] for path in files)])
    note = output / "source.json"
    if not note.exists() or note.read_text(encoding="utf-8") != source:
        shutil.rmtree(output, ignore_errors=True)
        (output / "parts").mkdir(parents=True)
        (output / "landmarks").mkdir()
        note.write_text(source, encoding="utf-8")
    if (output / "manifest.jsonl").exists():
        return
    encoder = ClipEncoder(checkpoint, device)
    kept = []
    for clip in tqdm(usable_clips(clips, report), desc="clips", mininterval=2):
        part = output / "parts" / f"{clip.id}.safetensors"
        try:
            clip = track_clip(clip, encoder.aligner, output / "landmarks")
            if (corrected := encoder.correct_offset(clip)).offset:
                report(f"{clip.id}: {describe_offset(corrected.offset)}; corrected")
            clip = corrected
            if not part.exists():
                encoder.encode(clip, part)
            kept.append(clip)
        except (InvalidInputError, OSError) as error:
            report(f"skipped {clip.id}: {error}")
    if not kept:
        raise InvalidInputError(f"{data.absolute().name}: none of its {len(clips)} clips can be used for training")
    kept = split_by_talker(kept) if by_talker else hold_out_clips(kept)
    for split in ("val", "train"):
        if own := [clip for clip in kept if clip.split == split]:
            join_caches([output / "parts" / f"{clip.id}.safetensors" for clip in own], output / f"talkers_{split}.safetensors")
        if own and pictures:
            try:
                _encode_portraits(pictures, own, encoder, output, split)
            except InvalidInputError as error:
                report(f"portraits, {split}: skipped: {error}")
    # Last: where it stands, everything does.
    write_manifest(kept, output / "manifest.jsonl")
    shutil.rmtree(output / "parts")


def _encode_portraits(pictures: list[Path], clips: list[Clip], encoder: ClipEncoder, output: Path, split: str) -> None:
    """The photographs of a split speaking like its talkers, as another source."""
    labels = output / "landmarks" / "portraits.npz"
    find_portraits(pictures, encoder.aligner, labels)
    portraits = [portrait for portrait in load_portraits(pictures[0].parent, labels) if portrait.split == split]
    if not portraits:
        return
    writer, drivers, generator = LatentCacheWriter(encoder.vae), Drivers(clips, PORTRAIT_FRAMES), np.random.default_rng(0)
    heard = {clip.id: encoder.hear(load_sound(clip), len(load_landmarks(clip.landmarks))) for clip in clips}
    spoken = speak(portraits, drivers, PORTRAIT_FRAMES, generator)
    for _, speaking in tqdm(spoken, total=len(portraits), desc=f"portraits, {split}", mininterval=2):
        windows, lips = (track[speaking.start:speaking.start + PORTRAIT_FRAMES] for track in heard[speaking.driver])
        writer.add(speaking.crops, windows, references=speaking.reference[None], opening=lip_opening(speaking.landmarks), lips=lips)
    writer.write(output / f"portraits_{split}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="temposync-tiny")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    prepare_latents(arguments.data, arguments.output, arguments.model, arguments.device, by_talker=True)


if __name__ == "__main__":
    main()
