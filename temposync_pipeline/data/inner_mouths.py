"""Mouths seen from near, and what a denoiser says of them: what the stage `inner_mouth` trains on.

    python -m temposync_pipeline.data.inner_mouths --data DATA --labels LABELS --london LONDON --output MOUTHS

DATA and LABELS are those of `data.motion_pairs`, LONDON photographs `<person>_neutral.jpg` and `<person>_smiling.jpg`.  Everything is cut at
twice the crop's resolution, a few consecutive frames a take, of four kinds:

* photographs of people whose smile shows their teeth, made to speak (`speaking_with_own_teeth`): upper teeth stay with the head, lower
  ones and the tongue go with the jaw;
* photographs made to speak with the mouth of a talker who was filmed sharply (`speaking_with_driver`);
* that talker;
* talkers filmed softly, who show how mouths move but not what teeth look like.

Beside the encoder's latents of each frame stand the denoiser's: of the same frame with much noise, with more, and of the voice alone.
Writes MOUTHS/{train,val}.npz.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.signal import medfilt
from tqdm import tqdm

from ..face.crop import CROP_SIZE, align_matrix, crop_face, mask_mouth, smooth_matrices, transform_points
from ..face.inner_mouth import BLOCK, SCALE
from ..face.landmarks import MIRROR, lip_opening
from ..face.lip_shape import rest_shape, smooth_over_time
from ..media.image import load_image
from ..media.video import FPS, read_video
from ..models.conditioning import encode_crops, latent_window, viseme_windows
from ..models.precision import inference_autocast
from .clips import load_landmarks
from .manifest import Clip, build_manifest, portrait_split
from .motion_pairs import held_out_person
from .mouth_colour import skin_colour, teeth_colour
from .mouth_warp import INNER, LOWER, REGION, UPPER, MouthOpening, smoothstep, warp, warp_fields
from .retarget import close_mouth, closed_lips_source, transfer_motion

OWN_TEETH, DRIVEN, FILMED, SOFT = range(4)
TAKE_FRAMES = 3
# How a frame's latents came about; the last knows nothing of the frame but its voice.
ENCODED, MUCH_NOISE, MORE_NOISE, VOICE_ALONE = range(4)
LATENT_LEVELS = 24  # of int8 a unit of normalised latents
_QUALITY = 93
# Columns and rows of the block at twice the crop's resolution, in crop pixels.
_FINE_X = (np.arange(SCALE * (BLOCK.x1 - BLOCK.x0)) + 0.5) / SCALE - 0.5 + BLOCK.x0
_FINE_Y = ((np.arange(SCALE * (BLOCK.y1 - BLOCK.y0)) + 0.5) / SCALE - 0.5 + BLOCK.y0)[:, None]


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
        with np.load(path) as file:
            return cls(*(file[each.name] for each in fields(cls)))

    def pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """References uint8 [N, 128, 192, 3] and frames uint8 [N, T, 128, 192, 3]."""
        decoded = np.stack([cv2.imdecode(self.jpeg[a:b], cv2.IMREAD_COLOR_RGB) for a, b in zip(self.offsets, self.offsets[1:])])
        takes = decoded.reshape(len(self.kinds), -1, *decoded.shape[1:])
        return takes[:, 0], takes[:, 1:]


@dataclass
class Face:
    """A picture's aligned crop at twice the resolution, uint8 [512, 512, 3], and its landmarks [131, 2] in crop pixels."""

    name: str
    fine: np.ndarray
    landmarks: np.ndarray

    @property
    def crop(self) -> np.ndarray:
        return cv2.resize(self.fine, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)

    @classmethod
    def of(cls, name: str, picture: np.ndarray, landmarks: np.ndarray, matrix: np.ndarray | None = None) -> "Face":
        """Of a picture with `landmarks` [131, 2]; the alignment follows from them unless it is given."""
        matrix = align_matrix(landmarks) if matrix is None else matrix
        return cls(name, crop_face(picture, matrix, SCALE * CROP_SIZE), transform_points(matrix, landmarks).astype(np.float32))

    def changed(self, look: "Look") -> "Face":
        fine = look(self.fine)
        landmarks = self.landmarks
        if look.mirrored:
            landmarks = (landmarks * [-1, 1] + [CROP_SIZE - 1, 0])[MIRROR].astype(np.float32)
        return Face(self.name, fine, landmarks)


@dataclass
class Look:
    """Another light, and sometimes a mirror."""

    gain: np.ndarray
    offset: float
    mirrored: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Look":
        gain = rng.uniform(0.8, 1.2) * rng.uniform(0.93, 1.07, 3)
        return cls(gain.astype(np.float32), float(rng.uniform(-12, 12)), bool(rng.random() < 0.5))

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        picture = picture[:, ::-1] if self.mirrored else picture
        return np.clip(picture * self.gain + self.offset, 0, 255).astype(np.uint8)


@dataclass
class Fine:
    """An opening on the block's fine grid, each [192] or [128, 192]."""

    upper: np.ndarray
    lower: np.ndarray
    position: np.ndarray
    beyond: np.ndarray

    @classmethod
    def of(cls, landmarks: np.ndarray) -> "Fine":
        opening, columns = MouthOpening.of(landmarks), np.arange(REGION[1].start, REGION[1].stop)
        return cls(*(np.interp(_FINE_X, columns, values)
                     for values in (opening.upper, opening.lower, opening.position, opening.beyond)))

    @property
    def share(self) -> np.ndarray:
        """How much of a pixel is the inside of the mouth, [128, 192]."""
        inside = (self.beyond <= 0) * np.clip((self.lower - self.upper - 0.3) / 1.2, 0, 1)
        return inside * np.clip((_FINE_Y - self.upper) / 0.9 + 0.4, 0, 1) * np.clip((self.lower - _FINE_Y) / 0.9 + 0.4, 0, 1)

    @property
    def shade(self) -> np.ndarray:
        """Light that lips leave to what lies behind them."""
        return np.clip(np.minimum(0.55 + 0.14 * (_FINE_Y - self.upper), 0.72 + 0.16 * (self.lower - _FINE_Y)), 0.45, 1)


def block_of(fine: np.ndarray) -> np.ndarray:
    """The block [128, 192, 3] of a crop [512, 512, 3]."""
    return fine[SCALE * BLOCK.y0:SCALE * BLOCK.y1, SCALE * BLOCK.x0:SCALE * BLOCK.x1]


def moved_skin(face: Face, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face with landmarks `target` [131, 2] and nothing in its mouth: the crop [256, 256, 3] and the fine block, float32."""
    source, opening = closed_lips_source(face.landmarks), MouthOpening.of(target)
    crop = face.crop.astype(np.float32)
    crop[REGION] = warp(face.crop, source, target, opening)
    top, left = REGION[0].start, REGION[1].start
    to_field = np.float32([[1 / SCALE, 0, BLOCK.x0 - left + _FINE_X[0] - BLOCK.x0], [0, 1 / SCALE, BLOCK.y0 - top + _FINE_Y[0, 0] - BLOCK.y0]])
    size = len(_FINE_X), len(_FINE_Y)
    above, below = (cv2.warpAffine(field, to_field, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) for field in warp_fields(source, target))
    above, below = (cv2.remap(face.fine, SCALE * field + 0.5 * (SCALE - 1), None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
                    .astype(np.float32) for field in (above, below))
    fine = Fine.of(target)
    share = np.clip(0.5 + (_FINE_Y - (fine.upper + fine.lower) / 2) / (2 * (0.5 + 0.8 * fine.beyond)), 0, 1)[..., None]
    return crop, above + share * (below - above)


def composed(skin: tuple[np.ndarray, np.ndarray], inside: np.ndarray, fine: Fine) -> tuple[np.ndarray, np.ndarray]:
    """Crop uint8 [256, 256, 3] and block uint8 [128, 192, 3] of a face with the inside of the mouth drawn in."""
    crop, block = skin
    block = block + fine.share[..., None] * (inside * fine.shade[..., None] - block)
    block = np.clip(np.rint(block), 0, 255).astype(np.uint8)
    crop = np.clip(np.rint(crop), 0, 255).astype(np.uint8)
    crop[BLOCK.y0:BLOCK.y1, BLOCK.x0:BLOCK.x1] = cv2.resize(block, None, fx=1 / SCALE, fy=1 / SCALE, interpolation=cv2.INTER_AREA)
    return crop, block


@dataclass
class ToothLight:
    """A driver's mouth in a photograph's light, by the green of its pixels alone: in orange light no other channel tells a tooth from
    tissue."""

    bright: float  # the driver's teeth
    teeth: np.ndarray  # [3], those of the photograph
    tissue: np.ndarray  # [3]

    @classmethod
    def match(cls, face: Face, driver: "Driver", rng: np.random.Generator) -> "ToothLight":
        skin = skin_colour(face.crop, face.landmarks)
        known = teeth_colour(face.crop[None], face.landmarks[None])
        teeth = np.array([1.09, 1.0, 0.91]) * np.clip(1.05 * skin.mean(), 95, 200) if known is None else known
        teeth = teeth * rng.uniform(0.85, 1.1)
        return cls(driver.tooth_green, teeth, skin.mean() * rng.uniform(0.45, 0.75) * np.array([1.3, 0.82, 0.82]))

    def __call__(self, mouth: np.ndarray) -> np.ndarray:
        level = mouth[..., 1:2] / self.bright
        tooth = smoothstep(level, 0.4, 0.8)
        tissue = self.tissue * np.clip(mouth[..., :1] / (1.2 * self.bright), 0.12, 1.2)
        return (tissue + tooth * (self.teeth * np.clip(level, 0, 1.25) - tissue)).astype(np.float32)


def driver_interior(driver: Face, fine: Fine, light: ToothLight) -> np.ndarray:
    """The inside of a driver's mouth drawn into another opening, float32 [128, 192, 3]: each column keeps its place."""
    upper, lower, columns = driver.landmarks[INNER[UPPER]], driver.landmarks[INNER[LOWER]], np.arange(11)
    x = np.interp(fine.position, columns, (upper[:, 0] + lower[:, 0]) / 2)
    top, bottom = (np.interp(fine.position, columns, lip[:, 1]) for lip in (upper, lower))
    inset = np.minimum(1.0, 0.3 * np.maximum(bottom - top, 0))
    height = np.clip((_FINE_Y - fine.upper) / np.maximum(fine.lower - fine.upper, 1), 0, 1)
    places = np.stack([np.broadcast_to(x, height.shape), top + inset + height * (bottom - top - 2 * inset)], -1)
    return light(cv2.remap(driver.fine, (SCALE * places + 0.5 * (SCALE - 1)).astype(np.float32), None, cv2.INTER_CUBIC).astype(np.float32))


@dataclass
class Teeth:
    """The upper teeth of a smile where they stand in the head: colours float32 [128, 192, 3] and coverage [128, 192] of the block."""

    colours: np.ndarray
    alpha: np.ndarray
    edge: np.ndarray  # [192], row of their lower edge in crop pixels

    @classmethod
    def of(cls, smiling: Face) -> "Teeth | None":
        """None where too little of them shows."""
        block, fine = block_of(smiling.fine).astype(np.float32), Fine.of(smiling.landmarks)
        inside = (_FINE_Y > fine.upper + 0.4) & (_FINE_Y < fine.lower - 0.4) & (fine.beyond <= 0)
        luma = block.mean(-1)
        if inside.sum() < 300:
            return None
        bright = np.percentile(luma[inside], 92)
        pale = block[..., 0] < 1.42 * np.maximum(block[..., 1], 1)
        tooth = (inside & pale & (luma > 0.5 * bright)).astype(np.uint8)
        tooth = cv2.morphologyEx(tooth, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        tall = tooth.sum(0) >= 6
        if tall.sum() < 50 or bright < 1.0 * skin_colour(smiling.crop, smiling.landmarks).mean():
            return None
        last = len(tooth) - 1 - np.argmax(tooth[::-1] > 0, axis=0)
        columns = np.flatnonzero(tall)
        last = medfilt(np.interp(np.arange(len(last)), columns, last[columns].astype(np.float32)), 7)
        last = cv2.GaussianBlur(last[None], (0, 0), 1.2)[0]
        covered = np.clip((cv2.GaussianBlur(tall[None].astype(np.float32), (9, 1), 2)[0] - 0.3) / 0.4, 0, 1)
        rows = np.arange(len(tooth))[:, None]
        alpha = np.clip(last - rows + 1.0, 0, 1) * covered
        # Behind the upper lip the teeth go on.
        first = np.clip(SCALE * (fine.upper + 1.2 - BLOCK.y0), 0, len(tooth) - 1)
        source = np.stack([np.broadcast_to(np.arange(len(last)), alpha.shape), np.maximum(rows, first)], -1).astype(np.float32)
        return cls(cv2.remap(block, source, None, cv2.INTER_LINEAR), alpha.astype(np.float32), last / SCALE + BLOCK.y0)


    def changed(self, look: Look) -> "Teeth":
        flip = slice(None, None, -1 if look.mirrored else 1)
        colours = np.clip(self.colours[:, flip] * look.gain + look.offset, 0, 255).astype(np.float32)
        return Teeth(colours, self.alpha[:, flip], self.edge[flip])


@dataclass
class Cavity:
    """What is behind and below the upper teeth; all lengths in crop pixels."""

    dark: np.ndarray  # [3]
    tongue: np.ndarray  # [3]
    tongue_height: np.ndarray  # [T], above the lower lip
    lower_teeth: float  # how far they rise above the lower lip, below 0 = not at all

    @classmethod
    def draw(cls, skin: np.ndarray, rng: np.random.Generator) -> "Cavity":
        dark = skin.mean() * rng.uniform(0.1, 0.32) * np.array([1.3, 0.85, 0.8])
        tongue = skin.mean() * rng.uniform(0.5, 0.85) * np.array([1.25, 0.85, 0.85])
        height = rng.uniform(-3, 9) + np.cumsum(rng.normal(0, 0.6, TAKE_FRAMES))
        return cls(dark, tongue, height, float(rng.uniform(-4, 6)))

    def paint(self, frame: int, fine: Fine, teeth: Teeth) -> np.ndarray:
        """float32 [128, 192, 3]."""
        gap = np.maximum(fine.lower - fine.upper, 1)
        depth = np.clip((_FINE_Y - fine.upper) / gap, 0, 1)
        middle = np.average(_FINE_X, weights=(fine.beyond <= 0) + 1e-6)
        wide = np.exp(-0.5 * ((_FINE_X - middle) / 17) ** 4)
        top = fine.lower - self.tongue_height[frame] * wide
        share = (1 / (1 + np.exp(-(_FINE_Y - top) / 1.6)) * wide)[..., None]
        picture = self.dark * (0.75 + 0.5 * depth[..., None]) * np.ones((1, 1, 3))
        picture = picture + share * (self.tongue * (0.8 + 0.25 * depth[..., None]) - picture)
        if self.lower_teeth > 0:
            picture = self._with_lower_teeth(picture, fine, teeth, middle)
        return picture + teeth.alpha[..., None] * (teeth.colours - picture)

    def _with_lower_teeth(self, picture: np.ndarray, fine: Fine, teeth: Teeth, middle: float) -> np.ndarray:
        """The upper teeth upside down and narrower, on a line that goes with the lower lip."""
        centre = np.interp(middle, _FINE_X, teeth.edge)
        line = np.interp(middle, _FINE_X, fine.lower) - self.lower_teeth
        x = middle + (_FINE_X - middle) / 0.72
        y = centre - (_FINE_Y - line) / 0.8 + 0.02 * (_FINE_X - middle) ** 2 * 0.5
        places = np.stack(np.broadcast_arrays(SCALE * (x - BLOCK.x0), SCALE * (y - BLOCK.y0)), -1).astype(np.float32)
        layer = cv2.remap(np.dstack([0.85 * teeth.colours, teeth.alpha]), places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        near = np.exp(-0.5 * ((_FINE_X - middle) / 15) ** 6)
        return picture + (layer[..., 3] * near)[..., None] * (layer[..., :3] - picture)


@dataclass
class Driver:
    """A clip's frames as faces, its talker's rest [131, 2], what was heard."""

    clip: Clip
    faces: list[Face]
    rest: np.ndarray
    tooth_green: float

    @classmethod
    def load(cls, clip: Clip) -> "Driver":
        landmarks = load_landmarks(clip.landmarks)
        matrices = smooth_matrices(np.stack([align_matrix(points) for points in landmarks]))
        frames = read_video(clip.video, fps=FPS)[0]
        faces = [Face.of(clip.id, *each) for each in zip(frames, landmarks, matrices)]
        landmarks = np.stack([face.landmarks for face in faces])
        return cls(clip, faces, rest_shape(landmarks), _tooth_green(faces, lip_opening(landmarks)))

    def stretches(self, rng: np.random.Generator, count: int) -> list[int]:
        """First frames of takes in which the mouth is open, mostly."""
        opening = lip_opening(np.stack([face.landmarks for face in self.faces]))
        middle = opening[1:len(opening) - 1]
        chance = np.clip(middle, 0.02, 0.2)
        return rng.choice(len(middle), min(count, len(middle)), replace=False, p=chance / chance.sum()).tolist()


def _tooth_green(faces: list[Face], openings: np.ndarray) -> float:
    """Green of a talker's teeth: what one pixel in ten exceeds in the mouths open most."""
    inside = []
    for index in np.argsort(openings)[-12:]:
        share = Fine.of(faces[index].landmarks).share
        inside.append(block_of(faces[index].fine)[share > 0.9][:, 1])
    return float(np.percentile(np.concatenate(inside), 90)) if sum(map(len, inside)) else 128.0


Take = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # reference crop and block, crops and blocks of the frames


def closed(face: Face) -> tuple[np.ndarray, np.ndarray]:
    """Crop and block of the face with its mouth closed."""
    target = close_mouth(face.landmarks)
    return composed(moved_skin(face, target), np.zeros(3), Fine.of(target))


def targets(face: Face, driver: Driver, start: int) -> np.ndarray:
    landmarks = smooth_over_time(np.stack([each.landmarks for each in driver.faces]).astype(np.float64), 0.6)
    return transfer_motion(close_mouth(face.landmarks), landmarks[start:start + TAKE_FRAMES], driver.rest)


def speaking_with_own_teeth(face: Face, teeth: Teeth, driver: Driver, start: int, rng: np.random.Generator) -> Take:
    """A photograph speaking with its own teeth; half of the time the reference has its mouth closed."""
    cavity = Cavity.draw(skin_colour(face.crop, face.landmarks), rng)
    frames = []
    for index, target in enumerate(targets(face, driver, start)):
        fine = Fine.of(target)
        frames.append(composed(moved_skin(face, target), cavity.paint(index, fine, teeth), fine))
    reference = closed(face) if rng.random() < 0.5 else (face.crop, block_of(face.fine))
    return *reference, *map(np.stack, zip(*frames))


def speaking_with_driver(face: Face, driver: Driver, start: int, rng: np.random.Generator) -> Take:
    """A photograph speaking with the driver's mouth."""
    window = driver.faces[start:start + TAKE_FRAMES]
    light = ToothLight.match(face, driver, rng)
    frames = []
    for target, source in zip(targets(face, driver, start), window):
        fine = Fine.of(target)
        frames.append(composed(moved_skin(face, target), driver_interior(source, fine, light), fine))
    reference = closed(face) if rng.random() < 0.5 else (face.crop, block_of(face.fine))
    return *reference, *map(np.stack, zip(*frames))


def filmed(driver: Driver, start: int, look: Look, rng: np.random.Generator) -> Take:
    """Frames of a clip and, as their reference, one whose mouth is closed, sometimes any."""
    opening = lip_opening(np.stack([face.landmarks for face in driver.faces]))
    reference = int(rng.integers(len(opening))) if rng.random() < 0.3 else int(rng.choice(np.argsort(opening)[:12]))
    frames = [face.changed(look) for face in driver.faces[start:start + TAKE_FRAMES]]
    still = driver.faces[reference].changed(look)
    return still.crop, block_of(still.fine), np.stack([face.crop for face in frames]), np.stack([block_of(face.fine) for face in frames])


class Voice:
    """What a pipeline hears in a driver's clip, and what its denoiser makes of frames with that voice."""

    def __init__(self, pipe, clip: Clip):
        from ..media.audio import load_audio

        self.pipe, self.speech = pipe, pipe._hear(load_audio(clip.video))

    @torch.inference_mode()
    def latents(self, reference: np.ndarray, crops: np.ndarray, start: int, mirrored: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Latents int8 [C, 10, 12] of a reference crop and [T, 4, C, 10, 12] of frames, see `InnerMouths`."""
        pipe, count = self.pipe, len(crops)
        encoded = encode_crops(pipe.vae, np.concatenate([reference[None], crops, mask_mouth(reference)[None]])).float()
        context, identity = latent_window(encoded[-1:]), pipe.identity_encoder(encoded[:1].to(pipe.identity_encoder.dtype))
        window = latent_window(encoded[:-1])
        still = window[:1].expand(count, -1, -1, -1)
        config, scheduler = pipe.denoiser.config, pipe.scheduler
        frames = np.clip(np.arange(start, start + count), 0, len(self.speech) - 1)
        given = {
            "reference": still, "context": context.expand(count, -1, -1, -1), "identity": identity.float().expand(count, -1),
            "visemes": torch.from_numpy(viseme_windows(self.speech.visemes, config.viseme_window)[frames].copy()),
            "lips": torch.from_numpy(self.speech.lips[frames].copy())}
        residual = (window[1:] - still) / config.residual_scale
        scheduler.set_timesteps(4)
        sigmas = scheduler.sigmas.tolist()

        # Those that start with less noise join in at later steps.
        samples = torch.zeros_like(residual)
        for index, joining in ((0, 0), (1, 0), (2, 1), (3, 1)):
            samples = torch.cat([samples] + [residual] * (joining and 1))
            noise = torch.from_numpy(rng.standard_normal((1, *samples.shape[1:]), np.float32))
            sigma, repeats = torch.tensor(sigmas[index]), len(samples) // count
            noisy = samples + sigmas[index] * noise
            with inference_autocast(noisy, pipe.use_bfloat16):
                raw = pipe.denoiser(noisy * scheduler.boundary_coefficients(sigma)[2], scheduler.timestep(sigma),
                                    **{name: torch.cat([value] * repeats) for name, value in given.items()}).sample
            samples = scheduler.pred_original(raw.float(), noisy, sigma)
        alone, more, much = samples.split(count)
        ways = [residual, much, more, alone]
        return _as_int8(window[0]), _as_int8(torch.stack([still + config.residual_scale * way for way in ways], 1))


def _as_int8(latents: torch.Tensor) -> np.ndarray:
    return (latents.float() * LATENT_LEVELS).round().clamp(-127, 127).to(torch.int8).numpy()


class Writer:
    """Collects takes."""

    def __init__(self):
        self.jpeg, self.reference_latents, self.latents, self.kinds, self.people = [], [], [], [], []
        self._known: dict[str, int] = {}

    def add(self, take: Take, kind: int, person: str, voice: Voice, start: int, mirrored: bool, rng: np.random.Generator) -> None:
        reference_crop, reference, crops, blocks = take
        still, latents = voice.latents(reference_crop, crops, start, mirrored, rng)
        quality = (cv2.IMWRITE_JPEG_QUALITY, _QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        self.jpeg += [cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), quality)[1].ravel() for picture in (reference, *blocks)]
        self.reference_latents.append(still)
        self.latents.append(latents)
        self.kinds.append(kind)
        self.people.append(self._known.setdefault(person, len(self._known)))

    def mouths(self) -> InnerMouths:
        return InnerMouths(
            np.concatenate(self.jpeg), np.cumsum([0, *map(len, self.jpeg)]), np.stack(self.reference_latents), np.stack(self.latents),
            np.array(self.kinds, np.uint8), np.array(self.people, np.int32))


def london_faces(folder: Path, aligner) -> Iterator[tuple[Face, Face]]:
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
    with np.load(landmarks) as file:
        names = file["names"].tolist()
    points = load_landmarks(landmarks)
    for index in rng.permutation(len(names))[:round(count * 16 / 15)]:
        if np.isfinite(points[index]).all():
            yield Face.of(names[index], load_image(folder / names[index]), points[index])


def talker_of(clip: Clip) -> str:
    return f"filmed {clip.talker}"


@dataclass
class Counts:
    """Takes of each kind: a photograph's own teeth and a driver's, a sharp clip's, a soft clip's; and portraits made to speak."""

    own: int = 4
    driven: int = 2
    sharp: int = 12
    soft: int = 1
    portraits: int = 80


def write_split(writer: Writer, split: str, pipe, people: list[tuple[Face, Face]], portraits: list[Face], sharp: list[Driver],
                soft: list[Driver], counts: Counts, rng: np.random.Generator) -> None:
    voices = {driver.clip.id: Voice(pipe, driver.clip) for driver in sharp + soft}

    def add(kind: int, person: str, driver: Driver, make) -> None:
        look = Look.draw(rng)
        start = driver.stretches(rng, 1)[0]
        take = make(look, start)
        writer.add(take, kind, person, voices[driver.clip.id], start, look.mirrored, rng)

    def any_of(drivers: list[Driver]) -> Driver:
        return drivers[rng.integers(len(drivers))]

    for neutral, smiling in tqdm(people, desc=f"{split}: photographs"):
        teeth = Teeth.of(smiling)
        for photo in (neutral, smiling):
            for _ in range(counts.own if teeth is not None else 0):
                driver = any_of(sharp + soft)
                add(OWN_TEETH, neutral.name, driver, lambda look, start: speaking_with_own_teeth(
                    photo.changed(look), teeth.changed(look), driver, start, rng))
            for _ in range(counts.driven):
                driver = any_of(sharp)
                add(DRIVEN, neutral.name, driver, lambda look, start: speaking_with_driver(photo.changed(look), driver, start, rng))
    for photo in tqdm(portraits[:counts.portraits], desc=f"{split}: portraits"):
        driver = any_of(sharp)
        add(DRIVEN, photo.name, driver, lambda look, start: speaking_with_driver(photo.changed(look), driver, start, rng))
    for kind, drivers, count in ((FILMED, sharp, counts.sharp), (SOFT, soft, counts.soft)):
        for driver in tqdm(drivers, desc=f"{split}: clips"):
            for start in driver.stretches(rng, count):
                look = Look.draw(rng)
                writer.add(filmed(driver, start, look, rng), kind, talker_of(driver.clip), voices[driver.clip.id], start, look.mirrored, rng)


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
    people = list(london_faces(arguments.london, pipe.face_aligner))
    portraits = list(portrait_faces(arguments.data / "portraits", arguments.labels / "portraits.npz", Counts.portraits, rng))
    for split in ("val", "train"):
        share = arguments.share * (1.0 if split == "train" else 0.3)
        counts = Counts(*(max(1, round(share * value)) for value in vars(Counts()).values()))
        sharp, soft = _drivers(clips, split, 24 if split == "train" else 4, rng)
        own = [pair for pair in people if held_out_person(pair[0].name) == (split == "val")]
        writer = Writer()
        write_split(writer, split, pipe, own, [face for face in portraits if portrait_split(face.name) == split], sharp, soft, counts, rng)
        writer.mouths().save(arguments.output / f"{split}.npz")
        print(f"{split}: {len(writer.kinds)} takes, {np.bincount(writer.kinds)} of each kind")


def _drivers(clips: list[Clip], split: str, soft_count: int, rng: np.random.Generator) -> tuple[list[Driver], list[Driver]]:
    """Sharply filmed clips, every seventh held out, and some of the others."""
    sharp = [clip for clip in clips if "hq" in clip.id]
    sharp = sharp[::7] if split == "val" else [clip for index, clip in enumerate(sharp) if index % 7]
    others = [clip for clip in clips if "hq" not in clip.id and clip.split == split and np.isfinite(load_landmarks(clip.landmarks)).all()]
    soft = [others[index] for index in rng.choice(len(others), min(soft_count, len(others)), replace=False)]
    return [Driver.load(clip) for clip in sharp], [Driver.load(clip) for clip in soft]


if __name__ == "__main__":
    main()
