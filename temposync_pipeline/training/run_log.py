"""What a run writes down: `log.csv`, and TensorBoard's event files where TensorBoard is installed."""

import csv
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker


class RunLog:
    """One row of figures a validation in `log.csv`, readable while the run goes on; its columns grow with the figures.

    A run that resumes at `step` drops the rows after it: they will be made again.
    """

    def __init__(self, folder: Path, step: int):
        self.path = folder / "log.csv"
        self.rows = []
        if step and self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]

    def add(self, row: dict[str, float]) -> None:
        # A finished run that is resumed once more validates again at its last step.
        self.rows = [earlier for earlier in self.rows if int(earlier["step"]) < row["step"]]
        self.rows.append({key: f"{value:.6g}" for key, value in row.items()})
        staged = self.path.with_suffix(".staged")
        with open(staged, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for each in self.rows for key in each)), restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(staged, self.path)


def start_tensorboard(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Let `accelerator.log` write to `folder`/tensorboard from `step` on; one line on stderr where TensorBoard is missing."""
    if not accelerator.is_main_process:
        return
    if find_spec("tensorboard") is None:
        print("TensorBoard is not installed (pip install tensorboard): the curves go to log.csv alone", file=sys.stderr)
        return
    # Events that a killed run wrote after its last checkpoint are hidden: they will be made again.
    tracker = TensorBoardTracker("tensorboard", folder, purge_step=step)
    tracker.start()
    accelerator.trackers = [tracker]
