"""What the evaluation does with one clip, pair or photograph: makes the table's rows and measures them.

The rows are `noisy`, `teacher_<steps>`, `student_<steps>`, `one_by_one`, `passed_on`, `in_photo`, `still`, `shuffled_audio`, `vae`,
`temporal_vae`, `retargeted` and `dubbed_<steps>` (`ROWS` says what they are); protocols in which nobody is compared with his own recording
add controls of their own and leave `noisy`, `vae` and `temporal_vae` out; photographs alone have `retargeted`, films alone `dubbed`.
`linear_baseline` makes two rows, of lip openings without a picture.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..data.clips import load_clip, load_landmarks, load_sound
from ..data.manifest import Clip
from ..data.retarget import retarget
from ..errors import InvalidInputError
from ..face.crop import crop_face, mouth_mask, transform_points
from ..face.landmarks import lip_opening
from ..face.lip_shape import rest_shape
from ..face.moving_photo import face_mask
from ..media.audio import SAMPLE_RATE, AudioSource
from ..media.image import load_image
from ..media.video import FPS, read_video
from ..models.sync_expert import SyncExpert
from . import judge
from .closures import shut_share
from .crop_video import CropVideo, PortraitCrop, VideoMaker, crops_like, encode_block
from .detail import detail_figures, is_large, zoomed_mouths
from .dubbing import change_in_film, head_error
from .identity import proxy_csim
from .report import Example
from .sync import sync_figures
from .talking_face import (
    Figures,
    change_outside,
    closure_figures,
    lip_figures,
    picture_figures,
    reconstruction_figures,
    sharpness_ratio,
    steadiness_figures,
)
from .voice import Listener, Voice
from .whole_face import coding_figures, seam, whole_face_figures

ROWS = {
    "noisy": "the real frames' latents with the scheduler's largest noise",
    "teacher": "the teacher, with many steps",
    "student": "the student, a row for each number of steps",
    "one_by_one": "of models that denoise clips together, the same without that: each clip after the one before",
    "passed_on": "of models that speak in chunks, the same with the last latents passed on as they are, not decoded and encoded again",
    "in_photo": "the student's frames as users get them, pasted into the photo and cropped again",
    "dubbed": "of films, dubbed with another clip's voice: a row for each number of steps",
    "still": "the portrait's reconstruction in all frames",
    "shuffled_audio": "the student with another talker's voice",
    "vae": "the autoencoder's reconstruction of the real frames: the ceiling",
    "temporal_vae": "of models that move the whole face, the temporal autoencoder's reconstruction of the real frames: their ceiling",
    "linear_baseline": "what to beat: the lip opening as a linear map of the visemes heard, and of the classifier's hidden state",
    "retargeted": "what training aims at: the photograph warped after the driver's lips (`data.retarget`), reconstructed",
}
MAX_FRAMES = 300  # a minute of full HD would fill nine gigabytes
SMILE = 0.06  # lip opening of a portrait whose teeth show
IDENTITY_STRIDE = 5  # who it is changes slowly, and encoding a frame costs as much as generating one

Made = TypeVar("Made")


@dataclass
class Truth:
    """What a row is compared with.

    Real landmarks [T, 131, 2] to follow; the voice; the reconstruction [n, 256, 256, 3] that sharpness is relative to; the real crops
    [T, 256, 256, 3], and with them everything that only the person's own recording can tell, or None.
    """

    landmarks: np.ndarray
    voice: Voice
    reconstruction: np.ndarray
    crops: np.ndarray | None = None


@dataclass
class Evaluator:
    """Measures one checkpoint on clips, pairs and photographs.

    Args:
        maker: makes the videos. steps: the student's numbers of steps; controls and pictures take the first. teacher_steps: the teacher's.
        rows: which of `ROWS` to make. sync_expert: judge of synchrony, None leaves its figures out.
        listener: reads the clips' voices. guidances: further ones, towards portrait and speech, that get rows of their own.

    `seconds` adds up what each row took, making and measuring.
    """

    maker: VideoMaker
    steps: tuple[int, ...] = (4,)
    teacher_steps: int = 25
    rows: tuple[str, ...] = tuple(ROWS)
    sync_expert: SyncExpert | None = None
    listener: Listener = field(default_factory=Listener)
    guidances: tuple[tuple[float, float], ...] = ()
    seconds: Counter = field(default_factory=Counter)

    def __post_init__(self):
        # Clips come up again and again as partners of a pair.
        self.real_landmarks = lru_cache(maxsize=None)(self._real_landmarks)
        self.voice = lru_cache(maxsize=None)(lambda clip: self.listener.read(clip, self.real_landmarks(clip)))

    def _real_landmarks(self, clip: Clip) -> np.ndarray:
        """Landmarks of the real video in picture pixels, [T, 131, 2]."""
        points = load_landmarks(clip.landmarks) if clip.landmarks else self._track(read_frames(clip))
        return fill_gaps(points[:MAX_FRAMES])[0]

    def _track(self, frames: np.ndarray) -> np.ndarray:
        return self.maker.pipe.face_aligner.track(frames)

    def self_driven(self, clip: Clip, wrong_voice: Clip) -> tuple[dict, Example]:
        """A clip's first frame with the clip's own voice: the clip itself is the truth."""
        frames, landmarks = read_frames(clip), self.real_landmarks(clip)
        portrait = self.maker.portrait(frames[0])
        crops = crops_like(portrait, frames, landmarks)
        latents = encode_block(self.maker.pipe.vae, crops)
        reconstruction = self.maker.reconstruction(crops, latents)
        truth = Truth(landmarks, self.voice(clip), reconstruction.crops, crops)
        example = Example(clip.id, portrait.crop, lip_opening(landmarks), crops)
        rows = {}
        if "noisy" in self.rows and not self.maker.moves_heads:
            # There is no face to be found in noise.
            rows["noisy"] = self._timed("noisy", lambda: self._pictures(self.maker.noisy(crops, latents), truth))
        rows |= self._speaking_rows(portrait, read_voice(wrong_voice), truth, example)
        if "vae" in self.rows:
            rows["vae"] = self._timed("vae", lambda: self._measure(reconstruction, portrait, truth))
        if "temporal_vae" in self.rows and self.maker.moves_heads:
            rows["temporal_vae"], attainable = self._timed("temporal_vae", lambda: self._coded(frames, portrait, truth))
            rows["vae"] = rows.get("vae", {}) | attainable
        rows |= self._real_closures(truth)
        return _record(clip.id, clip, truth.voice, rows), example

    def cross_driven(self, portrait_clip: Clip, driver: Clip, wrong_voice: Clip) -> tuple[dict, Example]:
        """The first frame of one talker's clip with another talker's voice.

        Controls: the same lips against the portrait's own clip (`…_vs_own_clip`: are they followed instead?), that clip itself beside the
        driver's voice (`own_clip`), and the driver's real video (`driver_clip`: real synchrony, and somebody else's face).
        """
        portrait = self.maker.portrait(read_video(portrait_clip.video, max_frames=1)[0][0])
        record, example, truth = self._with_another_voice(portrait, portrait_clip.id, driver, wrong_voice)
        rows, main = record["rows"], f"student_{self.steps[0]}"
        if main in rows:
            rows[f"{main}_vs_own_clip"] = _across_people(lip_figures(example.landmarks[main], self.real_landmarks(portrait_clip)))
        rows["own_clip"] = self._timed("own_clip", lambda: self._real_video(portrait_clip, portrait, truth))
        rows["driver_clip"] = self._timed("driver_clip", lambda: self._real_video(driver, portrait, truth))
        return record, example

    def portrait_driven(self, photo: Path, driver: Clip, wrong_voice: Clip) -> tuple[dict, Example]:
        """A photograph of somebody who speaks nowhere in the data, with a talker's voice; portraits that smile get rows of their own."""
        portrait = self.maker.portrait(load_image(photo))
        record, example, truth = self._with_another_voice(portrait, photo.name, driver, wrong_voice)
        rows = record["rows"]
        if "retargeted" in self.rows:
            rows["retargeted"] = self._timed("retargeted", lambda: self._retargeted(portrait, driver, truth))
        kind = "smiling" if lip_opening(portrait.landmarks) > SMILE else "closed"
        for row in (f"student_{self.steps[0]}", "retargeted"):
            if row in rows:
                rows[f"{row}_{kind}_portraits"] = rows[row]
        rows["driver_clip"] = self._timed("driver_clip", lambda: self._real_video(driver, portrait, truth))
        return record, example

    def dubbed(self, film: Clip, driver: Clip) -> tuple[dict, Example]:
        """A talker's clip dubbed with the voice of another clip; the controls are those of `cross_driven`.

        Lips made for a voice resemble the film's old ones by what all sentences share, and more than the driver's real ones do where pairs
        were chosen because these do not: how much, the first frame as a portrait says (`student`), which never saw the old lips.
        """
        portrait = self.maker.portrait(read_video(film.video, max_frames=1)[0][0])
        truth = Truth(self.real_landmarks(driver), self.voice(driver), self.maker.still(portrait, 1).crops)
        name, rows = f"{film.id} with the voice of {driver.id}", {}
        example = Example(name, portrait.crop, lip_opening(truth.landmarks))
        for steps in self.steps if "dubbed" in self.rows else ():
            row = f"dubbed_{steps}"
            rows[row] = self._timed(row, lambda row=row, steps=steps: self._dubbed(film, portrait, truth, example, row, steps))
        if "student" in self.rows:
            row, voice = f"student_{self.steps[0]}", truth.voice.source
            rows[row] = self._timed(row, lambda: self._measure(
                self.maker.student(portrait, voice, self.steps[0]), portrait, truth, example, row))
        for row in list(rows):
            rows[f"{row}_vs_own_clip"] = _across_people(lip_figures(example.landmarks[row], self.real_landmarks(film)))
        rows["own_clip"] = self._timed("own_clip", lambda: self._real_video(film, portrait, truth))
        return _record(name, driver, truth.voice, rows), example

    def _dubbed(self, film: Clip, portrait: PortraitCrop, truth: Truth, example: Example, row: str, steps: int) -> Figures:
        frames, made = self.maker.dubbed(film.video, truth.voice.source, steps, MAX_FRAMES)
        landmarks, spoken = (fill_gaps(self._track(video))[0] for video in (frames, made))
        crops = crops_like(portrait, frames, landmarks)
        attainable = self.maker.reconstruction(crops, encode_block(self.maker.pipe.vae, crops)).crops
        figures = self._measure(
            CropVideo(crops_like(portrait, made, landmarks)), portrait, replace(truth, reconstruction=attainable), example, row)
        return figures | {"head_error": head_error(spoken, landmarks), "change_outside_mouth": change_in_film(made, frames, landmarks)}

    def _with_another_voice(self, portrait: PortraitCrop, name: str, driver: Clip, wrong_voice: Clip) -> tuple[dict, Example, Truth]:
        """A portrait with the voice of a clip that shows somebody else: the common part of the two protocols."""
        real = self.real_landmarks(driver)
        truth = Truth(real, self.voice(driver), self.maker.still(portrait, 1).crops)
        name = f"{name} with the voice of {driver.id}"
        example = Example(name, portrait.crop, lip_opening(real))
        rows = self._speaking_rows(portrait, read_voice(wrong_voice), truth, example)
        return _record(name, driver, truth.voice, rows), example, truth

    def _speaking_rows(
        self, portrait: PortraitCrop, wrong_voice: AudioSource, truth: Truth, example: Example
    ) -> dict[str, Figures]:
        """The rows that every protocol has; fills `example` on the way."""
        maker, main, voice, rows = self.maker, self.steps[0], truth.voice.source, {}

        def add(row: str, make: Callable[[], CropVideo]) -> None:
            rows[row] = self._timed(row, lambda: self._measure(make(), portrait, truth, example, row))

        if "teacher" in self.rows and maker.teacher is not None:
            add(f"teacher_{self.teacher_steps}", lambda: maker.speaking_teacher(portrait, voice, self.teacher_steps))
        for steps in self.steps if "student" in self.rows else ():
            add(f"student_{steps}", lambda steps=steps: maker.student(portrait, voice, steps))
            for guidance in self.guidances:
                add(f"student_{steps}_guidance_{guidance[0]:g}_{guidance[1]:g}", lambda steps=steps, guidance=guidance: maker.student(
                    portrait, voice, steps, portrait_guidance=guidance[0], speech_guidance=guidance[1]))
        if "one_by_one" in self.rows and getattr(maker.pipe, "denoises_together", False):
            add("one_by_one", lambda: maker.student(portrait, voice, main, asynchronous=False))
        if "passed_on" in self.rows and getattr(maker.pipe, "recodes_kernels", False):
            add("passed_on", lambda: maker.student(portrait, voice, main, recode=False))
        if "in_photo" in self.rows:
            rows["in_photo"] = self._timed("in_photo", lambda: self._delivered(portrait, voice, truth, example))
        if "still" in self.rows:
            add("still", lambda: maker.still(portrait, len(truth.landmarks)))
        if "shuffled_audio" in self.rows:
            add("shuffled_audio", lambda: maker.student(portrait, wrong_voice, main))
        if "linear_baseline" in self.rows:
            rows |= self.listener.baseline_rows(truth.voice, truth.landmarks)
        return rows

    def _timed(self, row: str, work: Callable[[], Made]) -> Made:
        started = time.perf_counter()
        made = work()
        self.seconds[row] += time.perf_counter() - started
        return made

    def _measure(self, video: CropVideo, portrait: PortraitCrop, truth: Truth, example: Example | None = None, name: str = "") -> Figures:
        """All figures of a row that shows a face."""
        landmarks, missing = fill_gaps(self._track(video.crops))
        if example is not None:
            example.add(name, landmarks, video)
        figures = lip_figures(landmarks, truth.landmarks) | shut_share(lip_opening(landmarks), truth.voice.closures)
        if truth.crops is None:
            figures = _across_people(figures)
        figures |= self._pictures(video, truth) | self._similarity(video.crops, portrait)
        if self.sync_expert is not None and video.latents is not None:
            figures |= sync_figures(self.sync_expert, video.latents, truth.voice.samples)
        if video.visemes is not None:
            figures |= closure_figures(landmarks, video.visemes) | {"opening_portrait": float(lip_opening(portrait.landmarks))}
        if video.moving is not None:
            figures |= self._whole_face(video, truth)
        return figures | {"frames_without_face": missing}

    def _whole_face(self, video: CropVideo, truth: Truth) -> Figures:
        """What a head that moves does beside its mouth."""
        landmarks, _ = fill_gaps(self._track(video.moving))
        jump = seam(video.moving, video.joints)
        return whole_face_figures(landmarks, truth.landmarks) | ({} if jump is None else {"seam": jump})

    def _pictures(self, video: CropVideo, truth: Truth) -> Figures:
        """What needs no landmarks.  Pictures are compared from the second frame on: the first is what the generator was given."""
        figures = {"sharpness_ratio": sharpness_ratio(video.crops, truth.reconstruction), **steadiness_figures(video.crops)}
        if truth.crops is not None:
            figures |= picture_figures(video.crops[1:], truth.crops[1:])
            if video.crops is not truth.reconstruction:
                figures |= reconstruction_figures(video.crops[1:], truth.reconstruction[1:])
        return figures

    def _similarity(self, crops: np.ndarray, portrait: PortraitCrop) -> Figures:
        """Whether they show the portrait's person, by our own encoder, and by dlib's where that is installed."""
        some = crops[::IDENTITY_STRIDE]
        figures = {"proxy_csim": proxy_csim(self.maker.identity_encoder, self.maker.pipe.vae, some, portrait.crop)}
        return figures | ({"csim": judge.csim(some, portrait.crop)} if judge.is_installed() else {})

    def _delivered(self, portrait: PortraitCrop, voice: AudioSource, truth: Truth, example: Example) -> Figures:
        """The row `in_photo`; its crops come out of whole frames, whose detail counts where the photo has more of it than a crop."""
        frames = np.stack(list(self.maker.in_photo(portrait, voice, self.steps[0])))
        crops = np.stack([crop_face(frame, portrait.matrix) for frame in frames])
        visemes = self.maker.followed(voice)
        if self.maker.moves_heads:
            video = self.maker.whole_face(crops, visemes=visemes)
            outside = {"change_outside_crop": change_outside(frames, portrait.matrix, face_mask())}
        else:
            video = CropVideo(crops, visemes=visemes)
            outside = {"change_outside_mouth": change_outside(frames, portrait.matrix, mouth_mask())}
        figures = self._measure(video, portrait, truth) | outside
        landmarks, _ = fill_gaps(self._track(crops))
        example.zooms = zoomed_mouths(portrait.photo, frames, portrait.matrix, lip_opening(landmarks))
        if is_large(portrait.matrix):
            figures |= detail_figures(portrait.photo, frames, portrait.matrix, portrait.landmarks, landmarks)
        return figures

    def _coded(self, frames: np.ndarray, portrait: PortraitCrop, truth: Truth) -> tuple[Figures, Figures]:
        """The row `temporal_vae`; and what of its figures the picture autoencoder alone reaches on the same crops."""
        crops = np.stack([crop_face(frame, portrait.matrix) for frame in frames])
        landmarks = transform_points(portrait.matrix, truth.landmarks)
        pictures, video = self.maker.coded(crops, portrait.crop)
        figures = self._measure(video, portrait, truth) | coding_figures(video.moving, crops, landmarks)
        return figures, coding_figures(pictures, crops, landmarks)

    def _retargeted(self, portrait: PortraitCrop, driver: Clip, truth: Truth) -> Figures:
        """The row `retargeted`: as much as the denoiser's own training pictures show of this driver's lips on this photograph."""
        real = load_clip(driver, landmarks=truth.landmarks)
        landmarks = transform_points(portrait.matrix, portrait.landmarks).astype(np.float32)
        crops, _ = retarget(portrait.crop, landmarks, real.landmarks, real.crops, rest_shape(real.landmarks))
        return self._measure(self.maker.reconstruction(crops, encode_block(self.maker.pipe.vae, crops)), portrait, truth)

    def _real_closures(self, truth: Truth) -> dict[str, Figures]:
        """The row `real_clip`: what the talker's own lips do for p, b and m."""
        figures = shut_share(lip_opening(truth.landmarks), truth.voice.closures)
        return {"real_clip": figures} if figures else {}

    def _real_video(self, clip: Clip, portrait: PortraitCrop, truth: Truth) -> Figures:
        """A real video as a row: how it fits the truth's lips and voice, and whether it shows the portrait's person."""
        landmarks = self.real_landmarks(clip)
        crops = load_clip(clip, landmarks=landmarks).crops
        figures = _across_people(lip_figures(landmarks, truth.landmarks)) | shut_share(lip_opening(landmarks), self.voice(clip).closures)
        figures |= self._similarity(crops, portrait)
        if self.sync_expert is not None:
            figures |= sync_figures(self.sync_expert, encode_block(self.maker.pipe.vae, crops), truth.voice.samples)
        return figures | steadiness_figures(crops)


def read_frames(clip: Clip) -> np.ndarray:
    """The clip's frames at 25 a second, uint8 [T, H, W, 3], up to `MAX_FRAMES`."""
    return read_video(clip.video, MAX_FRAMES, FPS)[0]


def read_voice(clip: Clip) -> tuple[np.ndarray, int]:
    """The clip's sound on its frames' clock: samples float32 [N] and their rate."""
    return load_sound(clip), SAMPLE_RATE


def _record(name: str, driver: Clip, voice: Voice, rows: dict[str, Figures]) -> dict:
    """An item of the report; `driver` is the clip with the voice."""
    return {"name": name, "talker": driver.talker, "offset": voice.offset, "rows": rows} | ({"note": voice.note} if voice.note else {})


def fill_gaps(landmarks: np.ndarray) -> tuple[np.ndarray, int]:
    """Landmarks [T, 131, 2] with frames of NaN replaced by the nearest frame that has a face, and the number of those.

    Raises InvalidInputError where no frame has one.
    """
    seen = np.flatnonzero(np.isfinite(landmarks).all((1, 2)))
    if not len(seen):
        raise InvalidInputError("no face found in any frame")
    nearest = np.abs(np.arange(len(landmarks))[:, None] - seen).argmin(1)
    return landmarks[seen[nearest]], len(landmarks) - len(seen)


def _across_people(figures: Figures) -> Figures:
    """Lip figures that mean something between two people: the shape of a mouth is its owner's."""
    return {name: value for name, value in figures.items() if name != "lmd"}
