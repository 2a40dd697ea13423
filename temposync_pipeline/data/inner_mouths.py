"""Mouths seen from near, and what a denoiser says of them: what the stage `inner_mouth` trains on.

    python -m temposync_pipeline.data.inner_mouths --data DATA --labels LABELS --london LONDON --output MOUTHS

DATA and LABELS are those of `data.motion_pairs`, LONDON photographs `<person>_neutral.jpg` and `<person>_smiling.jpg`; clips whose
id contains `hq` are the sharp ones.  Everything is cut at twice the crop's resolution, a few consecutive frames a take, of five kinds:

* photographs of people whose smile shows their teeth, made to speak (`speaking_with_own_teeth`): upper teeth stay with the head, lower
  ones and the tongue go with the jaw;
* photographs made to speak with the mouth of a talker who was filmed sharply (`speaking_with_driver`);
* that talker;
* talkers filmed softly, who show how mouths move but not what teeth look like;
* and both photographs of a person as they are.

Most photographs that people have are softer than that resolution: small portraits are among these, and many takes are softened, the
reference with its frames, so that the painter learns to be as sharp as the photograph is.

Beside the encoder's latents of each frame stand the denoiser's: of the same frame with much noise, with more, and of the voice alone,
told how the lips really were.  Of the last kind these mean nothing: nobody spoke.
Writes MOUTHS/{train,val}.npz.
"""

import argparse
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, fields
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ..face.inner_mouth import SCALE
from ..media.image import load_image
from ..models.face_aligner import FaceAligner
from .arrays import read_arrays
from .clips import load_landmarks
from .denoised_latents import Latents
from .fine_faces import Driver, Face, Look
from .manifest import Clip, build_manifest, portrait_split
from .motion_pairs import Voices, held_out_person
from .mouth_interiors import Take, Teeth, filmed, photographed, speaking_with_driver, speaking_with_own_teeth

OWN_TEETH, DRIVEN, FILMED, SOFT, PHOTOGRAPHED = range(5)
# Of takes in which lips are shut, whatever the photograph shows between them.
SHARE_SHUT = 0.35
# Deviation in pixels of the blur by which takes are softened, of large photographs some, of small ones all: what is drawn into
# these would be sharper than they are.
SOFTNESS, SMALL_SOFTNESS, SHARE_SOFTENED = (0.5, 3.5), (1.2, 3.5), 0.35
_QUALITY = 93


@dataclass
class InnerMouths:
    """N takes of T frames.  Pictures are JPEG files one after the other, the reference's first, then the take's, from `offsets` on."""

    jpeg: np.ndarray  # uint8 [bytes]
    offsets: np.ndarray  # int64 [N · (1 + T) + 1]
    reference_latents: np.ndarray  # int8 [N, C, 10, 12], in units of 1/LATENT_LEVELS
    latents: np.ndarray  # int8 [N, T, 4, C, 10, 12], of each way
    kinds: np.ndarray  # uint8 [N]
    people: np.ndarray  # int32 [N], equal for takes of one person

    def save(self, path: str | PathLike) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **{each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def load(cls, path: str | PathLike) -> "InnerMouths":
        return cls(**read_arrays(path, *(each.name for each in fields(cls))))

    def pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """References uint8 [N, 128, 192, 3] and frames uint8 [N, T, 128, 192, 3]."""
        decoded = np.stack([cv2.imdecode(self.jpeg[a:b], cv2.IMREAD_COLOR_RGB) for a, b in zip(self.offsets, self.offsets[1:])])
        takes = decoded.reshape(len(self.kinds), -1, *decoded.shape[1:])
        return takes[:, 0], takes[:, 1:]


class Writer:
    """Collects takes."""

    def __init__(self):
        self.jpeg, self.reference_latents, self.latents, self.kinds, self.people = [], [], [], [], []
        self._known: dict[str, int] = {}

    def add(self, take: Take, kind: int, person: str, latents: Latents) -> None:
        _, reference, _, blocks = take
        still, ways = latents
        quality = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        pictures = [np.ascontiguousarray(picture[..., ::-1]) for picture in (reference, *blocks)]
        self.jpeg += [cv2.imencode(".jpg", picture, quality)[1].ravel() for picture in pictures]
        self.reference_latents.append(still)
        self.latents.append(ways)
        self.kinds.append(kind)
        self.people.append(self._known.setdefault(person, len(self._known)))

    def mouths(self) -> InnerMouths:
        return InnerMouths(
            np.concatenate(self.jpeg), np.cumsum([0, *map(len, self.jpeg)]), np.stack(self.reference_latents), np.stack(self.latents),
            np.array(self.kinds, np.uint8), np.array(self.people, np.int32))


def london_faces(folder: Path, aligner: FaceAligner) -> Iterator[tuple[Face, Face]]:
    """Each person's neutral and smiling photograph."""
    for neutral in sorted(folder.glob("*_neutral.jpg")):
        smiling = neutral.with_name(neutral.name.replace("neutral", "smiling"))
        found = []
        for path in (neutral, smiling):
            photo = load_image(path)
            faces = aligner.detect(photo)
            if faces:
                found.append(Face.of(path.stem, photo, faces[0].landmarks))
        if len(found) == 2:
            yield found[0], found[1]


def portrait_faces(folder: Path, landmarks: Path, count: int, rng: np.random.Generator) -> Iterator[Face]:
    """Some portraits, a sixteenth of them more than `count`: for validation."""
    names = read_arrays(landmarks, "names")["names"].tolist()
    points = load_landmarks(landmarks)
    for index in rng.permutation(len(names))[:round(count * 16 / 15)]:
        if np.isfinite(points[index]).all():
            yield Face.of(names[index], load_image(folder / names[index]), points[index])


@dataclass
class Counts:
    """Takes: of a large photograph with its own teeth, beside the person's other one, and with a driver's mouth; of a sharp clip and of a
    soft one; and small portraits that speak, with their own teeth if they show them."""

    own: int = 10
    photographed: int = 1
    driven: int = 1
    sharp: int = 8
    soft: int = 3
    portraits: int = 480


class Scene(NamedTuple):
    """A take yet to be made: `make` is called with the look, the driver's first frame and a random generator; in `share_softened` of all
    cases it is `softened` by a deviation between the limits `softness`, in pixels of its blocks."""

    kind: int
    person: str
    driver: Driver
    make: Callable[[Look, int, np.random.Generator], Take]
    softness: tuple[float, float] = (0.0, 0.0)
    share_softened: float = 0.0


def scenes_of_photographs(
    people: list[tuple[Face, Face]], portraits: list[Face], sharp: list[Driver], soft: list[Driver], counts: Counts,
    rng: np.random.Generator,
) -> Iterator[Scene]:
    """Neutral and smiling photographs, with the smile's teeth where it shows them, and portraits."""
    def driven(photo: Face, person: str, *softness) -> Scene:
        driver = sharp[rng.integers(len(sharp))]
        return Scene(DRIVEN, person, driver, lambda look, start, rng: speaking_with_driver(
            photo.changed(look), driver, start, rng), *softness)

    def own(photo: Face, person: str, teeth: Teeth, *softness) -> Scene:
        driver = (sharp + soft)[rng.integers(len(sharp + soft))]
        return Scene(OWN_TEETH, person, driver, lambda look, start, rng: speaking_with_own_teeth(
            photo.changed(look), teeth.changed(look), driver, start, rng), *softness)

    def other(photo: Face, reference: Face, person: str, *softness) -> Scene:
        driver = soft[rng.integers(len(soft))]
        return Scene(PHOTOGRAPHED, person, driver, lambda look, start, rng: photographed(
            reference.changed(look), photo.changed(look)), *softness)

    large, small = (SOFTNESS, SHARE_SOFTENED), (SMALL_SOFTNESS, 1.0)
    for neutral, smiling in people:
        teeth = Teeth.of(smiling)
        for photo, reference in ((neutral, smiling), (smiling, neutral)):
            yield from (other(photo, reference, neutral.name, *large) for _ in range(counts.photographed))
            if teeth is not None:
                yield from (own(photo, neutral.name, teeth, *large) for _ in range(counts.own))
            yield from (driven(photo, neutral.name, *large) for _ in range(counts.driven))
    for photo in portraits[:counts.portraits]:
        teeth = Teeth.of(photo)
        yield driven(photo, photo.name, *small) if teeth is None else own(photo, photo.name, teeth, *small)


def softened(take: Take, deviation: float) -> Take:
    """A take, uint8, blurred by a Gaussian of this deviation in pixels of its blocks, which are half a pixel of its crops each."""
    reference_crop, reference, crops, blocks = take

    def blurred(picture: np.ndarray, scale: float) -> np.ndarray:
        return cv2.GaussianBlur(picture, (0, 0), scale * deviation)

    return (blurred(reference_crop, 1 / SCALE), blurred(reference, 1), np.stack([blurred(crop, 1 / SCALE) for crop in crops]),
            np.stack([blurred(block, 1) for block in blocks]))


def scenes_of_clips(kind: int, drivers: list[Driver], count: int) -> Iterator[Scene]:
    for driver in drivers:
        scene = Scene(kind, f"talker {driver.clip.talker}", driver, partial(filmed, driver))
        yield from (scene for _ in range(count))


def write_scenes(scenes: list[Scene], voices: Voices, rng: np.random.Generator) -> InnerMouths:
    """All takes, each in a light of its own, at a moment at which its driver's mouth is open, mostly, or else shut."""
    writer = Writer()
    for scene in tqdm(scenes):
        start = scene.driver.stretches(rng, 1, shut=rng.random() < SHARE_SHUT)[0]
        take = scene.make(Look.draw(rng), start, rng)
        if rng.random() < scene.share_softened:
            take = softened(take, rng.uniform(*scene.softness))
        reference, _, crops, _ = take
        writer.add(take, scene.kind, scene.person, voices.latents(
            scene.driver.clip, reference, crops, start + np.arange(len(crops)), rng))
    return writer.mouths()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "labels", "london", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", default="temposync-tiny", help="checkpoint whose networks are used")
    parser.add_argument("--share", type=float, default=1.0, help="of the takes, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    from ..pipelines.pipeline_temposync import TempoSyncPipeline

    pipe = TempoSyncPipeline.from_pretrained(arguments.model)
    rng = np.random.default_rng(arguments.seed)
    clips = [clip for clip in build_manifest(arguments.data, landmarks=arguments.labels) if clip.landmarks is not None]
    voices = Voices(pipe, clips)
    people = list(london_faces(arguments.london, pipe.face_aligner))
    faces = list(portrait_faces(arguments.data / "portraits", arguments.labels / "portraits.npz",
                               round(arguments.share * Counts.portraits), rng))
    for split in ("val", "train"):
        share = arguments.share * (1.0 if split == "train" else 0.3)
        counts = Counts(*(max(1, round(share * value)) for value in vars(Counts()).values()))
        sharp, soft = _drivers(clips, voices.lips, split, 24 if split == "train" else 4, rng)
        own = [pair for pair in people if held_out_person(pair[0].name) == (split == "val")]
        portraits = [face for face in faces if portrait_split(face.name) == split]
        scenes = [*scenes_of_photographs(own, portraits, sharp, soft, counts, rng), *scenes_of_clips(FILMED, sharp, counts.sharp),
                  *scenes_of_clips(SOFT, soft, counts.soft)]
        mouths = write_scenes(scenes, voices, rng)
        mouths.save(arguments.output / f"{split}.npz")
        print(f"{split}: {len(mouths.kinds)} takes, {np.bincount(mouths.kinds)} of each kind")


def _drivers(
    clips: list[Clip], known: Container[str], split: str, soft_count: int, rng: np.random.Generator
) -> tuple[list[Driver], list[Driver]]:
    """Sharply filmed clips, every seventh held out, and some of the others, but for those whose lips are not `known`, by their ids."""
    sharp = [clip for clip in clips if "hq" in clip.id]
    sharp = sharp[::7] if split == "val" else [clip for index, clip in enumerate(sharp) if index % 7]
    others = [clip for clip in clips if "hq" not in clip.id and clip.split == split and clip.id in known]
    soft = [others[index] for index in rng.choice(len(others), min(soft_count, len(others)), replace=False)]
    return [Driver.load(clip) for clip in sharp if clip.id in known], [Driver.load(clip) for clip in soft]


if __name__ == "__main__":
    main()
