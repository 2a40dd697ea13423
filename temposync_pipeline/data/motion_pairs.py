"""Pairs of pictures of one person, a reference and a frame, and where the frame's pixels come from: what the stage `decoder` trains on.

    python -m temposync_pipeline.data.motion_pairs --data DATA --labels LABELS --output PAIRS [--pairs LONDON]

DATA holds `portraits/*.jpg` and talkers' clips (`.../<talker>/<name>.mpg`), LABELS their landmarks (examples/label_faces.py), and LONDON
photographs `<person>_neutral.jpg` and `<person>_smiling.jpg`, whose landmarks the checkpoint's aligner finds.  Three kinds of pairs:

* photographs made to speak (`data.retarget`), whose warp is the true answer; some of them as films show people, darker and softer, and
  amid speech;
* frames of one clip, which show how skin really moves, and how a head;
* the same person neutral and smiling: teeth and cheeks that only another photograph can show.

Of the first two there are, beside the encoder's latents of each frame, the denoiser's: of the same frame with much noise, with more, and
of the voice alone, told how the lips really were (`data.denoised_latents`).

Writes PAIRS/{train,val}/*.npy, the fields of `MotionPairs`.
"""

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import InvalidInputError
from ..face.crop import CROP_SIZE, LATENT_STRIDE, LATENT_WINDOW, align_matrix, crop_face, transform_points
from ..face.landmarks import lip_opening
from ..media.image import load_image
from ..models.conditioning import encode_crops, latent_window
from ..models.face_aligner import FaceAligner
from .arrays import map_array
from .clips import load_clip
from .denoised_latents import NUM_WAYS, Latents, Voice, as_int8
from .lip_tracks import lip_tracks
from .manifest import Clip, build_manifest
from .mouth_warp import REGION, MouthOpening, source_places
from .retarget import PARTED, closed_lips_source, interior_share, retarget
from .speaking_portraits import Drivers, Portrait, has_balanced_light, load_portraits

if TYPE_CHECKING:
    from ..models.autoencoder_temposync import AutoencoderTempoSync
    from ..pipelines.pipeline_temposync import TempoSyncPipeline

FLOW_STRIDE = 2
TOP, LEFT, HEIGHT, WIDTH = (LATENT_STRIDE * cells for cells in LATENT_WINDOW)
# Consecutive frames of a driver that a photograph takes at a time, and frames of a clip.
TAKE_FRAMES, CLIP_FRAMES = 4, 12
# Of takes whose photograph has the mouth of somebody who speaks, open where the clip drawn opens it so far (`PARTED`).
SHARE_AMID_SPEECH = 0.4
# Of takes that are made darker, mostly, and softer: how much, and the quality of JPEG.
SHARE_FILMED, BRIGHTNESS, SOFTNESS, QUALITY = 0.5, (0.35, 1.1), (1.0, 2.2), (40, 95)


# What `MotionPairs` has on disk: kind of number, and shape of an entry.
_STORED = {
    "references": (np.uint8, HEIGHT, WIDTH, 3), "reference_latents": (np.int8, None, *LATENT_WINDOW[2:]),
    "frames": (np.uint8, HEIGHT, WIDTH, 3), "latents": (np.int8, NUM_WAYS, None, *LATENT_WINDOW[2:]),
    "owners": (np.int32,), "kinds": (np.uint8,),
    "flow": (np.float16, 2, HEIGHT // FLOW_STRIDE, WIDTH // FLOW_STRIDE), "hidden": (np.uint8, HEIGHT, WIDTH)}


@dataclass
class MotionPairs:
    """N references and M frames; pictures and latents are those of the mouth's block (`face.crop.LATENT_WINDOW`).

    `kinds` says where a frame is from: 0 a photograph made to speak, 1 a clip, 2 two photographs; only the first has a known `flow`
    (crop pixels from a frame's pixel to its place in the reference, at every second pixel) and a known `hidden` (255 = not shown there).
    """

    references: np.ndarray  # uint8 [N, 160, 192, 3]
    reference_latents: np.ndarray  # int8 [N, C, 10, 12], in units of 1 / LATENT_LEVELS
    frames: np.ndarray  # uint8 [M, 160, 192, 3]
    latents: np.ndarray  # int8 [M, 4, C, 10, 12], of each way that they may have come about
    owners: np.ndarray  # int32 [M], index of the frame's reference
    kinds: np.ndarray  # uint8 [M]
    flow: np.ndarray  # float16 [M, 2, 80, 96]
    hidden: np.ndarray  # uint8 [M, 160, 192]

    def save(self, folder: str | PathLike) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for each in fields(self):
            np.save(Path(folder) / f"{each.name}.npy", getattr(self, each.name))

    @classmethod
    def load(cls, folder: str | PathLike) -> "MotionPairs":
        """Pictures stay on disk until they are used; raises InvalidInputError for arrays that are not those of such pairs, and OSError."""
        pairs = cls(*(map_array(Path(folder) / f"{name}.npy", kind, None, *shape) for name, (kind, *shape) in _STORED.items()))
        for name in _STORED:
            wanted = len(pairs.references if name.startswith("reference") else pairs.frames)
            if (count := len(getattr(pairs, name))) != wanted:
                raise InvalidInputError(f"{name}.npy: {count} entries, expected {wanted}")
        if pairs.owners.min() < 0 or pairs.owners.max() >= len(pairs.references):
            raise InvalidInputError(f"owners.npy: numbers outside the limits of 0 to {len(pairs.references) - 1}")
        return pairs


@dataclass
class PairWriter:
    """Collects pairs of whole crops, encoded as they come."""

    vae: "AutoencoderTempoSync"
    references: list = field(default_factory=list)
    frames: list = field(default_factory=list)

    def add(
        self, reference: np.ndarray, crops: np.ndarray, kind: int, truth: list[tuple[np.ndarray, np.ndarray]] | None = None,
        latents: Latents | None = None,
    ) -> None:
        """A reference [256, 256, 3], its frames [T, 256, 256, 3], and of each the flow [80, 96, 2] and what is hidden [160, 192].

        `latents` are what a denoiser makes of them; without, the encoder's stand in all places.
        """
        still, ways = latents or self._encoded(reference, crops)
        owner = len(self.references)
        self.references.append((_block(reference), still))
        unknown = np.zeros((HEIGHT // FLOW_STRIDE, WIDTH // FLOW_STRIDE, 2), np.float32), np.zeros((HEIGHT, WIDTH), np.uint8)
        for index, crop in enumerate(crops):
            flow, hidden = truth[index] if truth else unknown
            self.frames.append((_block(crop), ways[index], owner, kind, flow.transpose(2, 0, 1).astype(np.float16), hidden))

    def _encoded(self, reference: np.ndarray, crops: np.ndarray) -> Latents:
        encoded = as_int8(latent_window(encode_crops(self.vae, np.concatenate([reference[None], crops]))))
        return encoded[0], np.repeat(encoded[1:, None], NUM_WAYS, 1)

    def pairs(self) -> MotionPairs:
        references, frames = (list(zip(*rows)) for rows in (self.references, self.frames))
        kinds = (np.stack, np.stack, np.int32, np.uint8, np.stack, np.stack)
        return MotionPairs(*map(np.stack, references), *(make(column) for make, column in zip(kinds, frames)))


def _block(picture: np.ndarray) -> np.ndarray:
    return picture[TOP:TOP + HEIGHT, LEFT:LEFT + WIDTH].copy()


def true_motion(portrait: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flow float32 [80, 96, 2] and hidden uint8 [160, 192] of the frame whose landmarks [131, 2] are `shape`, made of `portrait`'s."""
    opening = MouthOpening.of(shape)
    flow, hidden = np.zeros((CROP_SIZE, CROP_SIZE, 2), np.float32), np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    y, x = np.mgrid[REGION].astype(np.float32)
    flow[REGION] = source_places(closed_lips_source(portrait), shape, opening) - np.stack([x, y], -1)
    hidden[REGION] = np.rint(255 * interior_share(opening))
    # Every second pixel, in the middle between two: no mean over a lip line whose sides move apart.
    return _block(flow)[::FLOW_STRIDE, ::FLOW_STRIDE], _block(hidden)


class Voices:
    """What is heard in clips, and how their talkers' lips were meanwhile."""

    def __init__(self, pipe: "TempoSyncPipeline", clips: list[Clip]):
        self.clips, self.lips = {clip.id: clip for clip in clips}, lip_tracks(clips)
        self._of = lru_cache(maxsize=None)(lambda name: Voice(pipe, self.clips[name]))

    def latents(self, clip: Clip, reference: np.ndarray, crops: np.ndarray, frames: np.ndarray, rng: np.random.Generator) -> Latents:
        """Of crops that speak like these frames of a clip."""
        return self._of(clip.id).latents(reference, crops, frames, rng, self.lips[clip.id][frames])


def amid_speech(portrait: Portrait, drivers: Drivers, rng: np.random.Generator) -> Portrait:
    """The photograph with the mouth of somebody who speaks, open; as it is where the clip that is drawn shows none."""
    clip, source = drivers.draw(rng)
    is_open = np.flatnonzero(lip_opening(source.landmarks) > PARTED)
    if not len(is_open):
        return portrait
    frame = slice(start := int(rng.choice(is_open)), start + 1)
    crops, shapes = retarget(portrait.crop, portrait.landmarks, source.landmarks[frame], source.crops[frame], drivers.rests[clip.talker])
    return Portrait(portrait.name, crops[0], shapes[0])


def as_filmed(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop uint8 [256, 256, 3] darker than it is, mostly, softer, and with the marks of compression."""
    small = round(CROP_SIZE / rng.uniform(*SOFTNESS))
    soft = cv2.resize(cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA), (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_CUBIC)
    dark = np.clip(soft * rng.uniform(*BRIGHTNESS), 0, 255).astype(np.uint8)
    quality = int(rng.integers(*QUALITY))
    return cv2.imdecode(cv2.imencode(".jpg", dark[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1], cv2.IMREAD_COLOR_RGB)


def add_speaking(
    writer: PairWriter, portraits: list[Portrait], drivers: Drivers, voices: Voices, takes: int, rng: np.random.Generator
) -> None:
    """Of each photograph some takes, each after a clip drawn anew."""
    for portrait in tqdm(portraits, desc="photographs"):
        for _ in range(takes):
            clip, source = drivers.draw(rng)
            frames = int(rng.integers(len(source.crops) - TAKE_FRAMES + 1)) + np.arange(TAKE_FRAMES)
            photo = amid_speech(portrait, drivers, rng) if rng.random() < SHARE_AMID_SPEECH else portrait
            reference = as_filmed(photo.crop, rng) if rng.random() < SHARE_FILMED else photo.crop
            crops, shapes = retarget(reference, photo.landmarks, source.landmarks[frames], source.crops[frames],
                                     drivers.rests[clip.talker])
            truth = [true_motion(photo.landmarks, shape) for shape in shapes]
            writer.add(reference, crops, 0, truth, voices.latents(clip, reference, crops, frames, rng))


def add_talkers(writer: PairWriter, clips: list[Clip], voices: Voices, rng: np.random.Generator) -> None:
    """Of each clip its first frame, which is silent, and a random one."""
    for clip in tqdm(clips, desc="clips"):
        crops = load_clip(clip).crops
        for reference in (0, int(rng.integers(len(crops)))):
            frames = np.sort(rng.choice(len(crops), min(CLIP_FRAMES, len(crops)), replace=False))
            latents = voices.latents(clip, crops[reference], crops[frames], frames, rng)
            writer.add(crops[reference], crops[frames], 1, latents=latents)


def photographs_in_pairs(folder: Path, aligner: FaceAligner) -> Iterator[tuple[Portrait, Portrait]]:
    """Each person's neutral and smiling photograph."""
    for neutral in tqdm(sorted(folder.glob("*_neutral.jpg")), desc="pairs"):
        both = [neutral, neutral.with_name(neutral.name.replace("neutral", "smiling"))]
        found = [_aligned(path, aligner) for path in both if path.exists()]
        if len(found) == 2 and all(found):
            yield found[0], found[1]


def _aligned(path: Path, aligner: FaceAligner) -> Portrait | None:
    photo = load_image(path)
    faces = aligner.detect(photo)
    if not faces:
        return None
    matrix = align_matrix(faces[0].landmarks)
    return Portrait(path.name, crop_face(photo, matrix), transform_points(matrix, faces[0].landmarks).astype(np.float32))


def held_out_person(name: str) -> bool:
    """Whether a person of the London set is for validation: the SHA-1 of the id (`001`) ends in 0, 1 or 2."""
    return hashlib.sha1(name.split("_")[0].encode()).hexdigest()[-1] in "012"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "labels", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, help="folder of neutral and smiling photographs")
    parser.add_argument("--model", default="temposync-tiny", help="checkpoint whose networks are used")
    parser.add_argument("--takes", type=int, default=4, help="stretches a photograph, each of a clip drawn anew")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    from ..pipelines.pipeline_temposync import TempoSyncPipeline

    pipe = TempoSyncPipeline.from_pretrained(arguments.model)
    rng = np.random.default_rng(arguments.seed)
    clips = [clip for clip in build_manifest(arguments.data, landmarks=arguments.labels) if clip.landmarks is not None]
    voices = Voices(pipe, clips)
    clips = [clip for clip in clips if clip.id in voices.lips]
    portraits = load_portraits(arguments.data / "portraits", arguments.labels / "portraits.npz")
    pairs = list(photographs_in_pairs(arguments.pairs, pipe.face_aligner)) if arguments.pairs else []
    for split in ("val", "train"):
        writer = PairWriter(pipe.vae)
        own = [clip for clip in clips if clip.split == split]
        people = [pair for pair in pairs if held_out_person(pair[0].name) == (split == "val")]
        for neutral, smiling in people:
            writer.add(neutral.crop, smiling.crop[None], 2)
            writer.add(smiling.crop, neutral.crop[None], 2)
        add_talkers(writer, own, voices, rng)
        drivers = Drivers([clip for clip in own if has_balanced_light(clip)], TAKE_FRAMES)
        speaking = [portrait for portrait in portraits if portrait.split == split] + [photo for pair in people for photo in pair]
        add_speaking(writer, speaking, drivers, voices, arguments.takes, rng)
        writer.pairs().save(arguments.output / split)
        print(f"{split}: {len(writer.references)} references, {len(writer.frames)} frames")


if __name__ == "__main__":
    main()
