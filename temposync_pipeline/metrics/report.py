"""Turns the records of an evaluation into a summary, a Markdown table, a plot and a contact sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..models.visemes import VISEME_INDEX

HEADINGS = {
    "lip_r": "lip r", "best_lag": "best lag (frames)", "lag_within_one_frame": "best lag within ±1 frame (share)",
    "lip_r_at_best_lag": "lip r at best lag", "amplitude_ratio": "amplitude ratio",
    "lmd": "LMD (IOD)", "motion_amplitude": "motion amplitude (IOD)", "psnr_mouth": "PSNR mouth (dB)", "ssim_mouth": "SSIM mouth",
    "sharpness_ratio": "sharpness / reconstruction", "flicker_outside_mouth": "flicker outside mouth (levels)",
    "temporal_l1_mouth": "temporal L1 mouth (levels)", "flicker_std_of_differences_mouth": "std of differences, mouth (levels)",
    "opening_portrait": "opening of the portrait (IOD)", "opening_sil": "opening in silence (IOD)", "opening_PP": "opening for p/b/m (IOD)",
    "opening_aa": "opening for aa (IOD)", "frames_without_face": "frames without a face",
}
SHEET_FRAMES, CELL = 10, 128
SHEET_VISEMES = ("PP", "aa", "ou", "FF", "sil")
PANEL = (150, 900)  # height and width of a plot in pixels


@dataclass
class Example:
    """What the pictures show of one clip: lip openings [T], the portrait's crop [256, 256, 3], generated crops [T, 256, 256, 3], viseme
    probabilities [T, 15], and the real crops, None where the real talker is somebody else."""

    name: str
    real_opening: np.ndarray
    generated_opening: np.ndarray
    portrait_crop: np.ndarray
    generated_crops: np.ndarray
    visemes: np.ndarray
    real_crops: np.ndarray | None = None


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
    """The summary as a table: a line a figure, a column a row of the summary."""
    summary = report["summary"]
    names = [name for name in HEADINGS if any(name in figures for figures in summary.values())]
    lines = [
        f"# Evaluation: {report['protocol']}", "",
        f"{report['model']}, {report['num_inference_steps']} steps, {len(report['records'])} clips; mean ± standard deviation.", "",
        "| | " + " | ".join(row.replace("_", " ") for row in summary) + " |", "|---|" + "---|" * len(summary),
    ]
    for name in names:
        cells = [f"{figures[name]['mean']:.3f} ± {figures[name]['std']:.3f}" if name in figures else "" for figures in summary.values()]
        lines.append(f"| {HEADINGS[name]} | " + " | ".join(cells) + " |")
    if report["failures"]:
        lines += ["", "Failures:", *[f"- {failure['name']}: {failure['error']}" for failure in report["failures"]]]
    return "\n".join(lines) + "\n"


def plot_openings(examples: list[Example], path: Path) -> None:
    """PNG of the lip opening over time, real in grey and generated in orange, a panel a clip; its height is the largest opening."""
    panels = []
    for example in examples:
        panel = np.full((*PANEL, 3), 255, np.uint8)
        top = max(example.real_opening.max(), example.generated_opening.max(), 1e-6)
        length = max(len(example.real_opening), len(example.generated_opening))
        for series, colour in ((example.real_opening, (110, 110, 110)), (example.generated_opening, (240, 130, 20))):
            x = np.arange(len(series)) / max(length - 1, 1) * (PANEL[1] - 1)
            y = PANEL[0] - 6 - series / top * (PANEL[0] - 30)
            cv2.polylines(panel, [np.stack([x, y], -1).round().astype(np.int32)], False, colour, 2, cv2.LINE_AA)
        label = f"{example.name}: lip opening up to {top:.2f} IOD in {length} frames, real grey, generated orange"
        panels.append(cv2.putText(panel, label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA))
    cv2.imwrite(str(path), np.vstack(panels)[..., ::-1])


def contact_sheet(examples: list[Example], path: Path) -> None:
    """PNG of aligned crops.

    Of a clip with a real counterpart, equally spaced frames, real over generated; of any other the portrait and the frame that
    sounds most like each of `SHEET_VISEMES`.
    """
    strips = []
    for example in examples:
        if example.real_crops is None:
            best = [example.visemes[:, VISEME_INDEX[viseme]].argmax() for viseme in SHEET_VISEMES]
            cells = [example.portrait_crop, *example.generated_crops[best]]
            strips.append(_strip(cells, example.name, ["portrait", *SHEET_VISEMES]))
        else:
            times = np.linspace(0, min(len(example.real_crops), len(example.generated_crops)) - 1, SHEET_FRAMES).round().astype(int)
            strips += [_strip(example.real_crops[times], f"{example.name} real"),
                       _strip(example.generated_crops[times], f"{example.name} generated")]
    cv2.imwrite(str(path), np.vstack(strips)[..., ::-1])


def _strip(crops: Sequence[np.ndarray], title: str, labels: Sequence[str] = ()) -> np.ndarray:
    strip = np.hstack([cv2.resize(crop, (CELL, CELL), interpolation=cv2.INTER_AREA) for crop in crops])
    for text, place in [(title, (4, 12)), *((label, (column * CELL + 4, CELL - 6)) for column, label in enumerate(labels))]:
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return strip


def write_report(report: dict, examples: list[Example], output: Path) -> None:
    """Beside the JSON `output`: the table (.md), the plot (_lips.png) and the contact sheet (_sheet.png)."""
    output.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    if examples:
        plot_openings(examples, output.with_name(f"{output.stem}_lips.png"))
        contact_sheet(examples, output.with_name(f"{output.stem}_sheet.png"))
