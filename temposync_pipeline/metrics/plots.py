"""Pictures of an evaluation: lip curves, every row's figures, quality by number of steps, and a contact sheet."""

from pathlib import Path

import cv2
import numpy as np

from ..face.landmarks import lip_opening
from .report import CELL, FIGURES, SHEET_VISEMES, Example

COLOURS = {"real": "#777777", "student": "#e67e14", "teacher": "#1f6fb4", "still": "#bbbbbb", "shuffled": "#9b59b6", "vae": "#2e8b57"}
ROW_FIGURES = ("psnr_vae", "psnr_vae_lips", "ssim_mouth", "lmd", "lip_r", "amplitude_ratio", "motion_amplitude", "sharpness_ratio",
               "temporal_l1", "flicker_std", "e_warp", "proxy_lse_d", "proxy_lse_c", "proxy_csim", "csim")
STEP_FIGURES = ("psnr_vae", "psnr_vae_lips", "lip_r", "sharpness_ratio", "flicker_std", "motion_amplitude")


def _colour(row: str) -> str:
    return next((colour for name, colour in COLOURS.items() if row.startswith(name)), "#c0392b")


def write_pictures(report: dict, examples: list[Example], output: Path) -> None:
    """Beside the JSON `output`: <name>_lips.png, _rows.png, _steps.png (with more than one number of steps), _sheet.png and, of the row
    `in_photo`, _zoom.jpg."""
    def beside(kind: str) -> Path:
        return output.with_name(f"{output.stem}_{kind}.png")

    if any(name in figures for figures in report["summary"].values() for name in ROW_FIGURES):
        plot_rows(report["summary"], beside("rows"))
    if sum(row.startswith("student_") and row[8:].isdigit() for row in report["summary"]) > 1:
        plot_steps(report["summary"], beside("steps"))
    if examples:
        plot_lips(examples, beside("lips"))
        contact_sheet(examples, beside("sheet"))
        zoom_sheet(examples, beside("zoom").with_suffix(".jpg"))


def _figure(rows: int, columns: int, width: float, height: float):
    """Matplotlib without its global state: a figure and its axes [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), dpi=100, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def plot_lips(examples: list[Example], path: Path) -> None:
    """Lip opening over time, a panel a clip: real, the first student row, the teacher."""
    figure, axes = _figure(len(examples), 1, 10, 1.9)
    for axis, example in zip(axes[:, 0], examples, strict=True):
        axis.plot(example.real_opening, color=COLOURS["real"], linewidth=2.5, label="real")
        for kind in ("student", "teacher"):
            row = next((name for name in example.landmarks if name.startswith(kind)), None)
            if row is not None:
                axis.plot(lip_opening(example.landmarks[row]), color=COLOURS[kind], linewidth=1.3, label=row.replace("_", " "))
        axis.set_title(example.name, fontsize=9, loc="left")
        axis.set_ylabel("opening (IOD)", fontsize=8)
        axis.margins(x=0)
    axes[0, 0].legend(fontsize=8, ncols=3, loc="upper right")
    axes[-1, 0].set_xlabel("video frame")
    figure.savefig(path)


def plot_rows(summary: dict, path: Path) -> None:
    """Mean and standard deviation of each figure, a dot a row; noise does not stretch the scale."""
    names = [name for name in ROW_FIGURES if any(name in figures for figures in summary.values())]
    columns = 4
    figure, axes = _figure(-(-len(names) // columns), columns, 3.4, 2.6)
    for axis in axes.flat[len(names):]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names):
        rows = [row for row in summary if name in summary[row]]
        places = range(len(rows))
        for place, row in enumerate(rows):
            axis.errorbar(summary[row][name]["mean"], place, xerr=summary[row][name]["std"], fmt="o", color=_colour(row), capsize=3)
        scaled = [row for row in rows if row != "noisy" or name.startswith("psnr")] or rows
        ends = np.array([[summary[row][name]["mean"] + sign * summary[row][name]["std"] for sign in (-1, 1)] for row in scaled])
        margin = max(0.06 * np.ptp(ends), 1e-3)
        axis.set_xlim(ends.min() - margin, ends.max() + margin)
        axis.grid(axis="y", linewidth=0.3)
        axis.set_yticks(places, [row.replace("_", " ") for row in rows], fontsize=7)
        axis.invert_yaxis()
        axis.set_title(FIGURES[name], fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
    figure.savefig(path)


def plot_steps(summary: dict, path: Path) -> None:
    """Figures of the student over its number of steps; the teacher, the autoencoder and the still picture as levels."""
    steps = sorted(int(row[8:]) for row in summary if row.startswith("student_") and row[8:].isdigit())
    names = [name for name in STEP_FIGURES if name in summary[f"student_{steps[0]}"]]
    figure, axes = _figure(-(-len(names) // 3), 3, 3.8, 2.8)
    for axis in axes.flat[len(names):]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names):
        values = [summary[f"student_{number}"][name]["mean"] for number in steps]
        axis.plot(steps, values, "o-", color=COLOURS["student"], label="student")
        for row, figures in summary.items():
            if row.startswith(("teacher", "vae", "still")) and name in figures:
                axis.axhline(figures[name]["mean"], color=_colour(row), linestyle="--", label=row.replace("_", " "))
        axis.set_xscale("log", base=2)
        axis.set_xticks(steps, steps)
        axis.set_xlabel("steps", fontsize=8)
        axis.set_title(FIGURES[name], fontsize=9)
    labelled = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(labelled.values(), labelled, fontsize=7, loc="outside upper center", ncols=len(labelled))
    figure.savefig(path)


def plot_minutes(report: dict, path: Path) -> None:
    """Of a report of `metrics.long_run`: a panel a figure over the minutes, a line a model."""
    names = [name for name in report["figures"] if any(name in model["minutes"][0] for model in report["models"].values())]
    columns = 4
    figure, axes = _figure(-(-len(names) // columns), columns, 3.4, 2.4)
    for axis in axes.flat[len(names):]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names):
        for model, measured in report["models"].items():
            values = [minute.get(name, np.nan) for minute in measured["minutes"]]
            axis.plot(range(1, len(values) + 1), values, "o-", markersize=3, label=model)
        axis.set_title(report["figures"][name], fontsize=9)
        axis.set_xlabel("minute", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.tick_params(labelsize=7)
        # A curve that only trembles shall not look as if it fell.
        low, high = axis.get_ylim()
        middle, half = (low + high) / 2, max((high - low) / 2, 0.05 * abs(low + high) / 2)
        axis.set_ylim(middle - half, middle + half)
    lines, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(lines, labels, fontsize=8, loc="outside upper center", ncols=len(labels))
    figure.savefig(path)


def contact_sheet(examples: list[Example], path: Path) -> None:
    """PNG of aligned crops, the portrait first: of each clip a strip real, student, teacher and still, at the same times.

    Where there is no real counterpart, the times are those at which the voice sounds most like each of `SHEET_VISEMES`.
    """
    strips = []
    for example in examples:
        kinds = [next((row for row in example.strips if row.startswith(kind)), None) for kind in ("real", "student", "teacher", "still")]
        for row in filter(None, kinds):
            strip = example.strips[row].copy()
            labels = ["portrait"] if "real" in example.strips else ["portrait", *SHEET_VISEMES]
            _write(strip, f"{example.name} {row.replace('_', ' ')}", (4, 12))
            for column, label in enumerate(labels):
                _write(strip, label, (column * CELL + 4, CELL - 6))
            strips.append(strip)
    if strips:
        cv2.imwrite(str(path), np.vstack(strips)[..., ::-1])


def zoom_sheet(examples: list[Example], path: Path) -> None:
    """JPEG of large photos' mouths, four times the crop's size: the photo, and what is open most, half and a little; a row a person."""
    rows = [example.zooms for example in examples if example.zooms is not None]
    if rows:
        cv2.imwrite(str(path), np.vstack(rows)[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 90))


def _write(strip: np.ndarray, text: str, place: tuple[int, int]) -> None:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    x, y = place
    cv2.rectangle(strip, (x - 2, y - height - 2), (x + width + 2, y + 4), (0, 0, 0), -1)
    cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
