"""`temposync evaluate`: how well generated faces follow real talkers that no model was trained on.

Three protocols:

* `self`: each clip's first frame is the portrait and the clip's own sound the audio, so the clip itself is the truth.  Two
  more rows put the figures in place: the still portrait, and the autoencoder's reconstruction of the real frames, the most
  that any generator in its latent space can reach.
* `cross`: the portrait of one talker with the sound of another.  The lips must follow the other talker's real lips and not
  those of the portrait's own clip; for that to be told apart, pairs are chosen whose real lips correlate below `MAX_REAL_R`.
* `portraits`: photographs of people who never speak anywhere in the data, with the talkers' sound.

Generated landmarks come from the checkpoint's own face aligner; so do the real ones, unless the manifest names better ones.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..data.clips import load_clip, load_landmarks
from ..data.manifest import Clip, build_manifest, portrait_split, read_manifest
from ..errors import InvalidInputError
from ..face.crop import align_matrix, crop_face
from ..face.landmarks import lip_opening
from ..media.image import load_image
from ..media.video import read_video
from ..pipelines.pipeline_temposync import TempoSyncPipeline
from .lips import pearson
from .report import Example, summarise, write_report
from .talking_face import closure_figures, lip_figures, picture_figures, reconstruct, sharpness_ratio, steadiness_figures

PROTOCOLS = ("self", "cross", "portraits")
MAX_REAL_R = 0.2
SMILE = 0.06  # lip opening of a portrait whose teeth show
MAX_EXAMPLES = 6
PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass
class Generated:
    """A generated video: frames uint8 [T, H, W, 3], aligned crops [T, 256, 256, 3], landmarks [T, 131, 2], viseme probabilities
    [T, 15]; the portrait's landmarks, crop and affine to the crop; how many frames showed no face."""

    frames: np.ndarray
    crops: np.ndarray
    landmarks: np.ndarray
    visemes: np.ndarray
    portrait_landmarks: np.ndarray
    portrait_crop: np.ndarray
    matrix: np.ndarray
    frames_without_face: int

    def figures(self) -> dict[str, float]:
        """What needs no truth to compare with."""
        return {**steadiness_figures(self.frames, self.matrix), **closure_figures(self.landmarks, self.visemes),
                "opening_portrait": float(lip_opening(self.portrait_landmarks)), "frames_without_face": self.frames_without_face}

    def example(self, name: str, real: np.ndarray, real_crops: np.ndarray | None = None) -> Example:
        """For the pictures of the report; `real` are the landmarks to follow."""
        return Example(name, lip_opening(real), lip_opening(self.landmarks), self.portrait_crop, self.crops, self.visemes, real_crops)


def fill_gaps(landmarks: np.ndarray) -> tuple[np.ndarray, int]:
    """Landmarks [T, 131, 2] with frames of NaN replaced by the nearest frame that has a face, and the number of those.

    Raises InvalidInputError where no frame has one.
    """
    seen = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
    if not len(seen):
        raise InvalidInputError("no face found in any frame")
    nearest = np.abs(np.arange(len(landmarks))[:, None] - seen).argmin(1)
    return landmarks[seen[nearest]], len(landmarks) - len(seen)


class Evaluator:
    """Runs one pipeline over clips and portraits; the protocols below ask it for what they compare."""

    def __init__(self, pipe: TempoSyncPipeline, num_inference_steps: int):
        self.pipe, self.num_inference_steps = pipe, num_inference_steps
        # Clips come up again and again as partners of a pair.
        self.real_landmarks = lru_cache(maxsize=None)(self._real_landmarks)

    def _real_landmarks(self, clip: Clip) -> np.ndarray:
        """Landmarks of the real video in picture pixels, [T, 131, 2]."""
        points = load_landmarks(clip.landmarks) if clip.landmarks else self.pipe.face_aligner.track(read_video(clip.video)[0])
        return fill_gaps(points)[0]

    def generate(self, photo: np.ndarray, audio: Path) -> Generated:
        """The pipeline's video of a photo uint8 [H, W, 3] and a sound file, with the landmarks that its frames show."""
        output = self.pipe(image=photo, audio=audio, num_inference_steps=self.num_inference_steps,
                           generator=torch.Generator().manual_seed(0), output_type="np")
        frames = np.rint(np.asarray(output.frames) * 255).astype(np.uint8)
        aligner = self.pipe.face_aligner
        portrait_landmarks = fill_gaps(aligner.track([photo]))[0][0]
        landmarks, missing = fill_gaps(aligner.track(frames))
        matrix = align_matrix(portrait_landmarks)
        portrait_crop, *crops = (crop_face(frame, matrix) for frame in (photo, *frames))
        return Generated(frames, np.stack(crops), landmarks, np.asarray(output.visemes), portrait_landmarks, portrait_crop, matrix, missing)

    def self_driven(self, clip: Clip) -> tuple[dict, Example]:
        """One clip of the protocol `self`."""
        video, real = read_video(clip.video)[0], self.real_landmarks(clip)
        crops = load_clip(clip, frames=video, landmarks=real).crops
        reconstruction = reconstruct(self.pipe.vae, crops)
        generated = self.generate(video[0], clip.video)
        still, still_landmarks = np.repeat(crops[:1], len(crops), 0), np.repeat(real[:1], len(real), 0)
        ceiling_landmarks = fill_gaps(self.pipe.face_aligner.track(reconstruction))[0]
        # Pictures are compared from the second frame on: the first one is what the generator was given.
        rows = {
            "generated": {**lip_figures(generated.landmarks, real), **picture_figures(generated.crops[1:], crops[1:]),
                          "sharpness_ratio": sharpness_ratio(generated.crops, reconstruction), **generated.figures()},
            "still_portrait": {**lip_figures(still_landmarks, real), **picture_figures(still[1:], crops[1:]),
                               "sharpness_ratio": sharpness_ratio(still, reconstruction)},
            "autoencoder": {**lip_figures(ceiling_landmarks, real), **picture_figures(reconstruction[1:], crops[1:]),
                            "sharpness_ratio": 1.0},
        }
        return {"name": clip.id, "rows": rows}, generated.example(clip.id, real, crops)

    def cross_driven(self, portrait: Clip, audio: Clip) -> tuple[dict, Example]:
        """One pair of the protocol `cross`: the first frame of one clip with the sound of another."""
        real, own = self.real_landmarks(audio), self.real_landmarks(portrait)
        generated = self.generate(read_video(portrait.video, max_frames=1)[0][0], audio.video)
        rows = {
            "generated_vs_voice_talker": {**_without_identity(lip_figures(generated.landmarks, real)), **generated.figures()},
            "generated_vs_portrait_clip": _without_identity(lip_figures(generated.landmarks, own)),
            "real_vs_real": _without_identity(lip_figures(own, real)),
        }
        name = f"{_name(portrait)} with the voice of {_name(audio)}"
        return {"name": name, "rows": rows}, generated.example(name, real)

    def portrait_driven(self, portrait: Path, audio: Clip) -> tuple[dict, Example]:
        """One pair of the protocol `portraits`: a photograph with the sound of a clip."""
        real = self.real_landmarks(audio)
        generated = self.generate(load_image(portrait), audio.video)
        reconstruction = reconstruct(self.pipe.vae, generated.portrait_crop[None])
        figures = {**_without_identity(lip_figures(generated.landmarks, real)),
                   "sharpness_ratio": sharpness_ratio(generated.crops, reconstruction), **generated.figures()}
        rows = {"generated": figures}
        rows["smiling_portraits" if figures["opening_portrait"] > SMILE else "closed_portraits"] = figures
        name = f"{_name(portrait)} with the voice of {_name(audio)}"
        return {"name": name, "rows": rows}, generated.example(name, real)

    def uncorrelated_pairs(self, clips: list[Clip]) -> list[tuple[Clip, Clip]]:
        """Pairs (portrait, audio) of different talkers whose real lips correlate below `MAX_REAL_R`, at most one an audio clip.

        Sentences that share their plan correlate by themselves: only such pairs tell whose lips are followed.  Of the portraits that
        qualify for a voice, the one used least so far is taken.
        """
        openings = {clip.id: lip_opening(self.real_landmarks(clip)) for clip in tqdm(clips, desc="real lips")}
        used = dict.fromkeys(openings, 0)
        pairs = []
        for audio in clips:
            length = {clip.id: min(len(openings[clip.id]), len(openings[audio.id])) for clip in clips}
            candidates = [clip for clip in clips if clip.talker != audio.talker and abs(pearson(
                openings[clip.id][:length[clip.id]], openings[audio.id][:length[clip.id]])) < MAX_REAL_R]
            if candidates:
                pairs.append((min(candidates, key=lambda clip: used[clip.id]), audio))
                used[pairs[-1][0].id] += 1
        return pairs


def _name(item: Clip | Path) -> str:
    return item.id if isinstance(item, Clip) else item.name


def _without_identity(figures: dict[str, float]) -> dict[str, float]:
    """Lip figures that mean something across two people: the shape of a mouth is its owner's."""
    return {name: value for name, value in figures.items() if name != "lmd"}


def spread_over_talkers(clips: list[Clip], limit: int | None) -> list[Clip]:
    """The first `limit` clips, taken from each talker in turn."""
    by_talker: dict[str, list[Clip]] = {}
    for clip in clips:
        by_talker.setdefault(clip.talker, []).append(clip)
    return [clip for turn in zip_longest(*by_talker.values()) for clip in turn if clip is not None][:limit]


def read_clips(manifest: Path, landmarks: Path | None = None) -> list[Clip]:
    """The validation clips of a manifest or folder; all of its clips where it marks none as validation."""
    clips = read_manifest(manifest) if landmarks is None else build_manifest(manifest, landmarks)
    return [clip for clip in clips if clip.split == "val"] or clips


def read_portraits(folder: Path | None, held_out_only: bool) -> list[Path]:
    """The pictures of a folder, in the order of their names."""
    if folder is None or not Path(folder).is_dir():
        raise InvalidInputError("the protocol 'portraits' needs a folder of portraits")
    files = sorted(file for file in Path(folder).iterdir() if file.suffix.lower() in PICTURES)
    files = [file for file in files if not held_out_only or portrait_split(file.name) == "val"]
    if not files:
        raise InvalidInputError(f"{Path(folder).name}: no portraits ({', '.join(PICTURES)}) in this folder")
    return files


def _tasks(evaluator: Evaluator, protocol: str, clips: list[Clip], limit: int | None, portraits: list[Path]) -> list[Callable]:
    """What a protocol has to do, one call an item."""
    if protocol == "self":
        return [partial(evaluator.self_driven, clip) for clip in spread_over_talkers(clips, limit)]
    if protocol == "cross":
        return [partial(evaluator.cross_driven, *pair) for pair in evaluator.uncorrelated_pairs(spread_over_talkers(clips, None))[:limit]]
    voices = spread_over_talkers(clips, None)
    return [partial(evaluator.portrait_driven, file, voices[i % len(voices)]) for i, file in enumerate(portraits[:limit])]


def run_evaluation(
    manifest: Path,
    model: str = "temposync-tiny",
    num_inference_steps: int = 4,
    limit: int | None = None,
    protocol: str = "self",
    output: Path | None = None,
    landmarks: Path | None = None,
    portraits: Path | None = None,
    held_out_only: bool = False,
    device: str = "cpu",
) -> dict:
    """Evaluate a checkpoint; returns the report, and writes it to `output` (.json, with a table, a plot and a contact sheet beside).

    Args:
        manifest: talkers that no model was trained on: a JSON Lines file or a folder (`data.manifest`); where it marks clips as
            validation, only those are used.
        model: a bundled checkpoint, a directory or a repository on the Hub.
        num_inference_steps: steps of the sampler.
        limit: at most this many clips, pairs or portraits.
        protocol: "self", "cross" or "portraits" (see the module).
        landmarks: folder of better landmarks `<clip id>.npz` for the clips of a folder; None tracks them.
        portraits: folder of photographs, for the protocol "portraits".
        held_out_only: of those, only the ones that `portrait_split` keeps from training.

    The report is {"protocol", "model", "num_inference_steps", "summary": {row: {figure: {"mean", "std", "n"}}}, "records",
    "failures"}; a clip that fails for its input's sake is listed there and skipped.  Raises InvalidInputError for unusable arguments.
    """
    if protocol not in PROTOCOLS:
        raise InvalidInputError(f"{protocol}: not a protocol ({', '.join(PROTOCOLS)})")
    clips = read_clips(manifest, landmarks)
    files = read_portraits(portraits, held_out_only) if protocol == "portraits" else []
    pipe = TempoSyncPipeline.from_pretrained(model).to(device)
    pipe.set_progress_bar_config(disable=True)
    evaluator = Evaluator(pipe, num_inference_steps)
    records, failures, examples = [], [], []
    for task in tqdm(_tasks(evaluator, protocol, clips, limit, files), desc=protocol):
        try:
            record, example = task()
        except InvalidInputError as error:
            failures.append({"name": " with the voice of ".join(_name(item) for item in task.args), "error": str(error)})
            continue
        records.append(record)
        if len(examples) < MAX_EXAMPLES:
            examples.append(example)
    name = Path(model).name if Path(model).is_dir() else str(model)
    report = {"protocol": protocol, "model": name, "num_inference_steps": num_inference_steps, "summary": summarise(records),
              "records": records, "failures": failures}
    if output is not None:
        output = Path(output)
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        write_report(report, examples, output)
    return report
