"""`temposync evaluate --protocol long`: what many minutes of speech do to a face, minute by minute.

Each model speaks for `minutes` with the voice of a talker (`long_speech`), and every frame is looked at as users get it: pasted into the
photo, and cut out again where the portrait's face was.  Nothing is kept but running figures, so that the memory that is measured is the
pipeline's own.  A face that has not drifted has the same figures in the last minute as in the first.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import tee
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
from tqdm import tqdm

from ..data.manifest import Clip
from ..errors import InvalidInputError
from ..face.crop import crop_face, mouth_mask, transform_points
from ..face.landmarks import GROUPS, lip_opening
from ..files import write_whole
from ..limits import MAX_SECONDS
from ..media.image import load_image
from ..media.video import FPS, read_video
from ..pipelines.auto import load_pipeline
from ..pipelines.talking_head import TalkingHeadPipeline
from . import judge
from .clip_selection import read_clips, read_portraits
from .crop_video import PortraitCrop, VideoMaker
from .evaluate import build_listener, guidance_options
from .identity import embed_crops
from .image import laplacian_variance
from .lips import MAX_LAG, lip_correlation
from .long_speech import LongVoice, by_talker, join_clips
from .talking_face import Figures, generated_block
from .temporal import RunningSteadiness

FIGURES = {
    "csim": "CSIM, dlib's ↑", "proxy_csim": "proxy CSIM ↑", "sharpness": "sharpness / photo's", "colour": "colour, ΔE to the photo ↓",
    "lip_r": "lip r ↑", "amplitude_ratio": "amplitude / real", "temporal_l1": "temporal L1 (levels)", "flicker_std": "flicker std (levels)",
    "frames_without_face": "frames without a face", "memory_mb": "memory (MiB)", "frame_ms": "ms a frame", "frame_cpu_ms": "CPU ms a frame",
}
# Ends of a run are compared by what they are worth: as ratios, or, where the figure may be near 0, as differences.
DIFFERENCES = ("colour", "lip_r", "frames_without_face")
MINUTE = 60 * FPS
# Who it is changes slowly, and is looked at once a second.
IDENTITY_STRIDE = FPS


def run_long(
    manifest: Path, models: Sequence[str] = ("temposync-tiny",), minutes: float = 10.0, steps: int | None = None, limit: int = 1,
    output: Path | None = None, landmarks: Path | None = None, portraits: Path | None = None, held_out_only: bool = False,
    mouth_amplitude: float | None = None, guidances: Sequence[tuple[float, float]] = (), device: str = "cpu",
) -> dict:
    """Let one or several checkpoints speak for minutes; returns the report, and writes it to `output` (.json, with a table and a plot).

    Args:
        manifest, landmarks, device, mouth_amplitude: see `evaluate.run_evaluation`.  The talker with the most clips is heard.
        guidances: none, which takes the checkpoints', or one.
        models: checkpoints. steps: of each; None takes its own default.
        minutes: of speech, up to what a recording may be long (`limits.MAX_SECONDS`).
        portraits: folder of photographs, of which with `held_out_only` those that were never trained on; None takes the talkers' own first
            frames.  Each photograph speaks with the voice of another talker in turn.
        limit: so many portraits.

    The report, which is the JSON; each figure is the mean over portraits:

        {"protocol": "long", "minutes", "figures": {figure: heading with unit and direction},
         "models": {model: {"steps", "first_frame_ms": from the call to the first frame, with all of the listening,
                            "minutes": [{figure: value}],
                            "drift": {figure: last minute over first, or, of `DIFFERENCES`, less first},
                            "records": [{"name", "talker", "clips", "own_seconds", "first_frame_ms", "minutes"}]}},
         "failures": [{"name", "error"}], "notes": [str]}

    Figures: `csim`, `proxy_csim` of one frame a second; `sharpness` of the mouth region over the photo's; `colour`, distance in CIE Lab of
    the face's mean colour to the photo's; `lip_r`, `amplitude_ratio` with the real lips; `temporal_l1`, `flicker_std` of the mouth region
    in levels; `memory_mb` that the process holds at the minute's end; `frame_ms`, `frame_cpu_ms` to make a frame.

    Raises InvalidInputError for unusable arguments, and where no portrait could be used.
    """
    if not 2 * MAX_LAG + 2 <= MINUTE * minutes <= MAX_SECONDS * FPS:
        raise InvalidInputError(f"--minutes {minutes:g}: a recording may have 0.01 to {MAX_SECONDS / 60:g} (TEMPOSYNC_MAX_SECONDS)")
    talkers = by_talker(read_clips(manifest, landmarks))
    photos: Sequence[Path | None] = [None] * len(talkers) if portraits is None else read_portraits(portraits, held_out_only)
    frames, failures = round(MINUTE * minutes), []
    report = {"protocol": "long", "minutes": minutes, "figures": FIGURES, "models": {}, "failures": failures, "notes": []}
    if not judge.is_installed():
        report["notes"].append("no CSIM: dlib's face embedding is not installed (pip install '.[judge]')")
    hear = None
    with tqdm(desc="long", unit="frame", total=frames * len(models) * len(photos[:limit])) as bar:
        for model, name in zip(models, _names(models)):
            pipe = load_pipeline(model).to(device)
            pipe.set_progress_bar_config(disable=True)
            maker = VideoMaker(pipe, None, mouth_amplitude, **guidance_options(pipe, model, guidances))
            hear = hear or _hearing(pipe, model, device, talkers, frames)  # all models hear the same
            count, records = pipe.default_steps if steps is None else steps, []
            for index, photo in enumerate(photos[:limit]):
                clips = talkers[index % len(talkers)]
                bar.set_postfix_str(name)
                try:
                    portrait, who = _portrait(maker, photo, clips[0])
                    records.append({"name": who, **_speak(maker, portrait, hear(index % len(talkers)), count, bar)})
                except InvalidInputError as error:
                    failures.append({"name": f"{name}: {photo.name if photo else clips[0].id}", "error": str(error)})
            if not records:
                raise InvalidInputError(f"nothing could be measured; {failures[-1]['name']}: {failures[-1]['error']}")
            report["models"][name] = {"steps": count, **_summary(records), "records": records}
            del pipe, maker
    if output is not None:
        write_long(report, output)
    return report


def _hearing(
    pipe: TalkingHeadPipeline, model: str, device: str, talkers: Sequence[Sequence[Clip]], frames: int
) -> Callable[[int], LongVoice]:
    """The voice of each of the talkers, read once, by the networks of a checkpoint."""
    listener, _ = build_listener(pipe, model, (), device)
    return cache(lambda talker: join_clips(talkers[talker], frames, pipe.face_aligner.track, listener.offsets))


def _names(models: Sequence[str]) -> list[str]:
    """What the report calls each: a folder by its name, unless two have the same."""
    short = [Path(model).resolve().name if Path(model).is_dir() else str(model) for model in models]
    return [name if short.count(name) == 1 else str(model) for name, model in zip(short, models)]


def _portrait(maker: VideoMaker, photo: Path | None, clip: Clip) -> tuple[PortraitCrop, str]:
    """A photograph, or the first frame of a talker's clip; and what it is called."""
    picture = read_video(clip.video, max_frames=1)[0][0] if photo is None else load_image(photo)
    return maker.portrait(picture), clip.id if photo is None else photo.name


def _speak(maker: VideoMaker, portrait: PortraitCrop, voice: LongVoice, steps: int, bar: tqdm) -> dict[str, Any]:
    """A record of the report, but for its name."""
    clock = Stopwatch()
    frames = clock.timed(maker.in_photo(portrait, voice.source, steps))
    minutes = list(measure(maker, portrait, frames, voice.opening, clock, bar))
    return {"talker": voice.talker, "clips": list(voice.clips), "own_seconds": voice.own_frames / FPS,
            "first_frame_ms": clock.first_ms, "minutes": minutes}


class Stopwatch:
    """What a generator's items take, in milliseconds of the wall's clock and of this process."""

    def __init__(self):
        self.first_ms = 0.0
        self._begin()

    def _begin(self) -> None:
        self._wall = self._cpu = 0.0
        self._count = 0

    def timed(self, items: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The items; the first one is timed by itself."""
        while True:
            wall, cpu = time.perf_counter(), time.process_time()
            item = next(items, None)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if item is None:
                return
            if not self.first_ms:
                self.first_ms = 1000 * wall
            else:
                self._wall, self._cpu, self._count = self._wall + wall, self._cpu + cpu, self._count + 1
            yield item

    def take(self) -> Figures:
        """{"frame_ms", "frame_cpu_ms"} since the last call."""
        count = max(self._count, 1)
        figures = {"frame_ms": 1000 * self._wall / count, "frame_cpu_ms": 1000 * self._cpu / count}
        self._begin()
        return figures


class Means:
    """Running means of figures."""

    def __init__(self):
        self._sums, self._counts = Counter(), Counter()

    def add(self, figures: Figures) -> None:
        self._sums.update(figures)
        self._counts.update(dict.fromkeys(figures, 1))

    def take(self) -> Figures:
        """Those of what came since the last call."""
        figures = {name: float(self._sums[name] / count) for name, count in self._counts.items()}
        self.__init__()
        return figures


class Likeness:
    """How far single frames have moved away from a portrait: in who they show, in sharpness and in colour."""

    def __init__(self, maker: VideoMaker, portrait: PortraitCrop):
        self._encoder, self._vae = maker.identity_encoder, maker.pipe.vae
        self._block = generated_block()
        self._mask = mouth_mask()[self._block]
        outline = transform_points(portrait.matrix, portrait.landmarks)[GROUPS["face_oval"]]
        self._face = cv2.fillPoly(np.zeros(portrait.crop.shape[:2], np.uint8), [np.rint(outline).astype(np.int32)], 1)
        self._sharpness, self._colour = self._look(portrait.crop)
        self._own = self._who(portrait.crop)

    def figures(self, crop: np.ndarray, who: bool) -> Figures:
        """Of a frame's crop uint8 [256, 256, 3]; `csim` and `proxy_csim` where `who` asks for them."""
        sharpness, colour = self._look(crop)
        figures = {"sharpness": sharpness / max(self._sharpness, 1e-9), "colour": float(np.linalg.norm(colour - self._colour))}
        return figures | ({name: float(one @ self._own[name]) for name, one in self._who(crop).items()} if who else {})

    def _look(self, crop: np.ndarray) -> tuple[float, np.ndarray]:
        """Variance of the Laplacian around the mouth, and the face's mean colour in CIE Lab."""
        lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        return laplacian_variance(crop[self._block], self._mask), np.array(cv2.mean(lab, self._face)[:3])

    def _who(self, crop: np.ndarray) -> dict[str, np.ndarray]:
        """Unit vectors, by the figure that they are for."""
        own = {"proxy_csim": embed_crops(self._encoder, self._vae, crop[None])[0]}
        return own | ({"csim": judge.embed_faces(crop[None])[0]} if judge.is_installed() else {})


@torch.inference_mode()
def measure(
    maker: VideoMaker, portrait: PortraitCrop, frames: Iterator[np.ndarray], real: np.ndarray, clock: Stopwatch, bar: tqdm,
    minute: int = MINUTE,
) -> Iterator[Figures]:
    """Figures of each `minute` of frames uint8 [H, W, 3], as they come; what is left at the end counts to the last.

    `real` [T] is the opening of the real lips, as many as there are frames.
    """
    ends = set(np.linspace(0, len(real), max(1, round(len(real) / minute)) + 1).round().astype(int)[1:].tolist())
    likeness, steadiness, means = Likeness(maker, portrait), RunningSteadiness(mouth_mask()[generated_block()]), Means()
    openings: list[float] = []
    shown, followed = tee(crop_face(frame, portrait.matrix) for frame in frames)
    for index, (crop, face) in enumerate(zip(shown, maker.pipe.face_aligner.follow(followed)), 1):
        means.add(likeness.figures(crop, who=index % IDENTITY_STRIDE == 1))
        steadiness.add(crop[generated_block()])
        openings.append(np.nan if face is None else float(lip_opening(face.landmarks)))
        bar.update()
        if index in ends:
            yield means.take() | _lips(np.array(openings), real[index - len(openings):index]) | steadiness.take() | clock.take() | {
                "memory_mb": psutil.Process().memory_info().rss / 2**20}
            openings.clear()


def _lips(generated: np.ndarray, real: np.ndarray) -> Figures:
    """Of lip openings [T], NaN where there is no face."""
    known = np.isfinite(generated) & np.isfinite(real)
    figures = {"frames_without_face": float((~np.isfinite(generated)).sum())}
    if known.sum() < 2 * MAX_LAG + 2:
        return figures
    correlation = lip_correlation(generated[known], real[known])
    return {"lip_r": correlation.r, "amplitude_ratio": correlation.amplitude_ratio} | figures


def _summary(records: list[dict]) -> dict[str, Any]:
    """Means over portraits, and the last minute against the first."""
    minutes = []
    for parts in zip(*(record["minutes"] for record in records)):
        means = Means()
        for part in parts:
            means.add(part)
        figures = means.take()
        minutes.append({name: figures[name] for name in FIGURES if name in figures})
    first, last = minutes[0], minutes[-1]
    drift = {name: last[name] - first[name] if name in DIFFERENCES else last[name] / first[name]
             for name in first if name in last and (name in DIFFERENCES or first[name])}
    return {"first_frame_ms": float(np.mean([record["first_frame_ms"] for record in records])), "minutes": minutes, "drift": drift}


def write_long(report: dict, output: Path) -> None:
    """The JSON `output`, the tables (.md) and, where matplotlib is installed, the plot (_minutes.png) beside it."""
    drawn = find_spec("matplotlib") is not None
    if not drawn:
        report["notes"].append("no plot: matplotlib is not installed")
    write_whole(output, json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_whole(output.with_suffix(".md"), markdown(report))
    if drawn:
        from .plots import plot_minutes

        plot_minutes(report, output.with_name(f"{output.stem}_minutes.png"))


def markdown(report: dict) -> str:
    """A table a model, a line a minute, and one of the last minute against the first."""
    lines = ["# Evaluation: long", "", f"{report['minutes']:g} minutes of speech. ↑ higher is better, ↓ lower."]
    names = [name for name in FIGURES if any(name in minute for model in report["models"].values() for minute in model["minutes"])]
    head = ["", "| | " + " | ".join(FIGURES[name] for name in names) + " |", "|---|" + "---|" * len(names)]

    def row(label: str, figures: Figures) -> str:
        return f"| {label} | " + " | ".join(f"{figures[name]:.3f}" if name in figures else "" for name in names) + " |"

    lines += ["", "## The last minute against the first", "", "Differences of " + ", ".join(FIGURES[name] for name in DIFFERENCES)
              + "; the others are ratios.", *head]
    lines += [row(name, model["drift"]) for name, model in report["models"].items()]
    for name, model in report["models"].items():
        lines += ["", f"## {name}, {model['steps']} steps", "", f"The first frame came after {model['first_frame_ms'] / 1000:.1f} s."]
        lines += [f"{record['name']} with the voice of {record['talker']}: {len(record['clips'])} clips of {record['own_seconds']:.0f} s "
                  "in all, again and again." for record in model["records"]]
        lines += head + [row(f"minute {index}", minute) for index, minute in enumerate(model["minutes"], 1)]
    lines += [""] + [f"- {note}" for note in report["notes"]]
    lines += [f"- failed: {failure['name']}: {failure['error']}" for failure in report["failures"]]
    return "\n".join(lines).rstrip() + "\n"
