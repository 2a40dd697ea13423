"""What there is between the lips of a speaking photograph, drawn at twice the crop's resolution: its own teeth, or a filmed talker's."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.signal import medfilt

from ..face.inner_mouth import BLOCK, SCALE
from ..face.landmarks import lip_opening
from .fine_faces import FINE_X, FINE_Y, TAKE_FRAMES, Driver, Face, Fine, Look, block_of, closed, composed, moved_skin, targets
from .mouth_colour import skin_colour, teeth_colour
from .mouth_warp import INNER, LOWER, UPPER, smoothstep

# Reference crop [256, 256, 3] and block [128, 192, 3], crops and blocks of the frames, uint8.
Take = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


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
    height = np.clip((FINE_Y - fine.upper) / np.maximum(fine.lower - fine.upper, 1), 0, 1)
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
        inside = (FINE_Y > fine.upper + 0.4) & (FINE_Y < fine.lower - 0.4) & (fine.beyond <= 0)
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
        depth = np.clip((FINE_Y - fine.upper) / gap, 0, 1)
        middle = np.average(FINE_X, weights=(fine.beyond <= 0) + 1e-6)
        wide = np.exp(-0.5 * ((FINE_X - middle) / 17) ** 4)
        top = fine.lower - self.tongue_height[frame] * wide
        share = (1 / (1 + np.exp(-(FINE_Y - top) / 1.6)) * wide)[..., None]
        picture = self.dark * (0.75 + 0.5 * depth[..., None]) * np.ones((1, 1, 3))
        picture = picture + share * (self.tongue * (0.8 + 0.25 * depth[..., None]) - picture)
        if self.lower_teeth > 0:
            picture = self._with_lower_teeth(picture, fine, teeth, middle)
        return picture + teeth.alpha[..., None] * (teeth.colours - picture)

    def _with_lower_teeth(self, picture: np.ndarray, fine: Fine, teeth: Teeth, middle: float) -> np.ndarray:
        """The upper teeth upside down and narrower, on a line that goes with the lower lip."""
        centre = np.interp(middle, FINE_X, teeth.edge)
        line = np.interp(middle, FINE_X, fine.lower) - self.lower_teeth
        x = middle + (FINE_X - middle) / 0.72
        y = centre - (FINE_Y - line) / 0.8 + 0.02 * (FINE_X - middle) ** 2 * 0.5
        places = np.stack(np.broadcast_arrays(SCALE * (x - BLOCK.x0), SCALE * (y - BLOCK.y0)), -1).astype(np.float32)
        layer = cv2.remap(np.dstack([0.85 * teeth.colours, teeth.alpha]), places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        near = np.exp(-0.5 * ((FINE_X - middle) / 15) ** 6)
        return picture + (layer[..., 3] * near)[..., None] * (layer[..., :3] - picture)


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


def photographed(reference: Face, face: Face) -> Take:
    """Another photograph of the same person, who holds still: how this person really smiles, or closes the mouth."""
    crops, blocks = (np.repeat(picture[None], TAKE_FRAMES, 0) for picture in (face.crop, block_of(face.fine)))
    return reference.crop, block_of(reference.fine), crops, blocks


def filmed(driver: Driver, look: Look, start: int, rng: np.random.Generator) -> Take:
    """Frames of a clip and, as their reference, one whose mouth is closed, sometimes any."""
    opening = lip_opening(np.stack([face.landmarks for face in driver.faces]))
    reference = int(rng.integers(len(opening))) if rng.random() < 0.3 else int(rng.choice(np.argsort(opening)[:12]))
    frames = [face.changed(look) for face in driver.faces[start:start + TAKE_FRAMES]]
    still = driver.faces[reference].changed(look)
    return still.crop, block_of(still.fine), np.stack([face.crop for face in frames]), np.stack([block_of(face.fine) for face in frames])
