"""Turns the records of an evaluation into a summary and Markdown tables, and keeps what the pictures need."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from ..models.visemes import VISEME_INDEX
from .crop_video import CropVideo
from .offset import describe_offset

# Figure: heading with its unit, and which way is better (↑, ↓; nothing where that depends).
FIGURES = {
    "psnr_vae": "PSNR vs VAE (dB) ↑", "psnr_vae_lips": "PSNR vs VAE, lips (dB) ↑",
    "temporal_l1": "temporal L1 (levels) ↓", "flicker_std": "flicker std (levels) ↓", "e_warp": "E_warp (levels) ↓",
    "motion_amplitude": "motion amplitude (IOD)", "change_outside_mouth": "change outside the mouth (levels) ↓",
    "psnr": "PSNR vs real (dB) ↑", "ssim": "SSIM vs real ↑", "psnr_mouth": "PSNR vs real, mouth (dB) ↑",
    "ssim_mouth": "SSIM vs real, mouth ↑", "lmd": "LMD (IOD) ↓", "sharpness_ratio": "sharpness / VAE",
    "lip_r": "lip r ↑", "best_lag": "best lag (frames)", "lag_within_one_frame": "best lag within ±1 (share) ↑",
    "lip_r_at_best_lag": "lip r at best lag ↑", "amplitude_ratio": "amplitude / real",
    "proxy_lse_d": "proxy LSE-D ↓", "proxy_lse_c": "proxy LSE-C ↑", "offset": "offset (frames)", "proxy_csim": "proxy CSIM ↑",
    "csim": "CSIM, dlib's (strangers 0.83) ↑",
    "detail_skin": "detail of the skin / photo's ↑", "detail_lips": "detail of the lips / photo's ↑",
    "opening_portrait": "opening of the portrait (IOD)", "opening_sil": "in silence (IOD)", "opening_PP": "for p, b, m (IOD)",
    "opening_aa": "for aa (IOD)", "frames_without_face": "frames without a face",
    "head_error": "head beside the film's (px) ↓", "change_outside_crop": "change outside the crop (levels) ↓",
    "seam": "jump at joints / median ↓",
    "head_shift": "head's place, deviation (crop px)", "head_shift_ratio": "/ real talker's", "head_roll": "roll, deviation (°)",
    "head_roll_ratio": "/ real talker's", "lids": "lids, deviation (of the open eye)", "lids_ratio": "/ real talker's",
    "blinks": "blinks a minute", "psnr_crop": "PSNR vs real, the crop (dB) ↑", "psnr_crop_mouth": "PSNR vs real, its mouth (dB) ↑",
    "mouth_change_ratio": "change of the mouth / real",
    "closures": "p, b, m (closures)", "closures_shut": "closures with the lips shut (share) ↑",
}
TABLES = {
    "The paper's table: the mouth region against the autoencoder's reconstruction, and over time":
        ("psnr_vae", "psnr_vae_lips", "temporal_l1", "flicker_std", "e_warp", "motion_amplitude", "change_outside_mouth"),
    "Against the real frames": ("psnr", "ssim", "psnr_mouth", "ssim_mouth", "lmd", "sharpness_ratio"),
    "Lips against the real lips": ("lip_r", "best_lag", "lag_within_one_frame", "lip_r_at_best_lag", "amplitude_ratio", "motion_amplitude"),
    "Synchrony and identity, by our own networks": ("proxy_lse_d", "proxy_lse_c", "offset", "proxy_csim"),
    "The whole face: head and lids beside the real talker's, and the joints of clips":
        ("head_shift", "head_shift_ratio", "head_roll", "head_roll_ratio", "lids", "lids_ratio", "blinks", "seam", "change_outside_crop"),
    "The film: whether its head stays in its place": ("head_error",),
    "What coding leaves of the whole face": ("psnr_crop", "psnr_crop_mouth", "mouth_change_ratio"),
    "Identity, by dlib's face embedding": ("csim",),
    "Fine detail of large photos, at their own resolution": ("detail_skin", "detail_lips"),
    "Mouth opening": ("opening_portrait", "opening_sil", "opening_PP", "opening_aa", "frames_without_face"),
}
SHEET_FRAMES, CELL = 10, 128
SHEET_VISEMES = ("PP", "aa", "E", "ih", "ou", "FF", "SS", "TH", "sil")


@dataclass
class Example:
    """What the pictures show of one clip: its name, the portrait's crop [256, 256, 3], the real lip opening [T], real crops
    [T, 256, 256, 3], None where the real talker is somebody else; and of each row, once added, landmarks [T, 131, 2] and a strip of
    `CELL`-sized crops at the times `times`.  Of the row `in_photo` also `zooms`, mouths at four times the crop's scale
    (`detail.zoomed_mouths`).
    """

    name: str
    portrait_crop: np.ndarray
    real_opening: np.ndarray
    real_crops: np.ndarray | None = None
    times: np.ndarray | None = None
    landmarks: dict[str, np.ndarray] = field(default_factory=dict)
    strips: dict[str, np.ndarray] = field(default_factory=dict)
    zooms: np.ndarray | None = None

    def __post_init__(self):
        if self.real_crops is not None:
            self.times = np.linspace(0, len(self.real_crops) - 1, SHEET_FRAMES).round().astype(int)
            self.strips["real"] = self._strip(self.real_crops)
            self.real_crops = None  # hundreds of megabytes over a whole evaluation

    def add(self, row: str, landmarks: np.ndarray, video: CropVideo) -> None:
        """Without real frames the times are those at which the first row's voice sounds most like each of `SHEET_VISEMES`."""
        if self.times is None:
            visemes = video.visemes if video.visemes is not None else np.eye(len(VISEME_INDEX))
            self.times = visemes[:, [VISEME_INDEX[name] for name in SHEET_VISEMES]].argmax(0)
        self.landmarks[row], self.strips[row] = landmarks, self._strip(video.crops)

    def _strip(self, crops: np.ndarray) -> np.ndarray:
        cells = [self.portrait_crop, *crops[np.minimum(self.times, len(crops) - 1)]]
        return np.hstack([cv2.resize(crop, (CELL, CELL), interpolation=cv2.INTER_AREA) for crop in cells])


def summarise(records: list[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and standard deviation over clips: {row: {figure: {"mean", "std", "n"}}} from records with a key "rows"."""
    summary: dict = {}
    for row in dict.fromkeys(row for record in records for row in record["rows"]):
        figures = [record["rows"][row] for record in records if row in record["rows"]]
        summary[row] = {}
        for name in dict.fromkeys(name for figure in figures for name in figure):
            values = np.array([figure[name] for figure in figures if name in figure], np.float64)
            summary[row][name] = {"mean": float(values.mean()), "std": float(values.std()), "n": len(values)}
    return summary


def markdown(report: dict) -> str:
    """The summary as tables, a line a row of the summary."""
    lines = [f"# Evaluation: {report['protocol']}", "",
             f"{report['model']}, {len(report['records'])} items; mean ± standard deviation. ↑ higher is better, ↓ lower.", ""]
    lines += [f"- `{row}`: {meaning}" for row, meaning in report["rows"].items()]
    for title, names in TABLES.items():
        lines += _table(title, names, report["summary"])
    lines += _closures_table(report["closures"]) + _offsets_list(report["records"])
    lines += [""] + [f"- {note}" for note in report["notes"]]
    lines += [f"- failed: {failure['name']}: {failure['error']}" for failure in report["failures"]]
    return "\n".join(lines).rstrip() + "\n"


def _table(title: str, names: tuple[str, ...], summary: dict) -> list[str]:
    names = [name for name in names if any(name in figures for figures in summary.values())]
    rows = {row: figures for row, figures in summary.items() if any(name in figures for name in names)}
    if not rows:
        return []
    lines = ["", f"## {title}", "", "| | " + " | ".join(FIGURES[name] for name in names) + " |", "|---|" + "---|" * len(names)]
    for row, figures in rows.items():
        cells = [f"{figures[name]['mean']:.3f} ± {figures[name]['std']:.3f}" if name in figures else "" for name in names]
        lines.append(f"| {row.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return lines


def _closures_table(closures: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """`metrics.closures.closures_by_talker` as a table; nothing where there are no closures."""
    if not closures:
        return []
    talkers = sorted({talker for groups in closures.values() for talker in groups} - {"all"})
    columns = ["all", *talkers] if len(talkers) > 1 else ["all"]
    lines = ["", "## p, b and m: closures in which the lips are shut ↑", "",
             "| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for row, groups in closures.items():
        counts = [groups.get(column) for column in columns]
        cells = [f"{count['shut'] / count['closures']:.0%} of {count['closures']}" if count else "" for count in counts]
        lines.append(f"| {row.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return lines


def _offsets_list(records: list[dict]) -> list[str]:
    """The items whose sound was moved."""
    moved = {record["name"]: record["offset"] for record in records if record.get("offset")}
    return ["", "## Sound that was late (or early), and was moved", ""] + [
        f"- {name}: {describe_offset(offset)}" for name, offset in moved.items()] if moved else []
