"""Does adapting to a person help?  Each of a person's last few clips in turn is held out, the others train, and the held-out one judges.

    python examples/adapt_to_person.py --data CLIPS --output runs/adapted

CLIPS: a folder of recordings of one person whom no model was trained on.  For each clip held out this runs `temposync train student --init
MODEL --data <the other clips>` and `temposync evaluate` on that clip, before and after.  Writes adapted.json and adapted.md: means over the
held-out clips.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from temposync_pipeline.data.manifest import VIDEO_SUFFIXES

FIGURES = {"lmd": "LMD (IOD)", "psnr_vae": "PSNR vs VAE (dB)", "psnr_vae_lips": "PSNR vs VAE, lips (dB)", "lip_r": "lip r",
           "amplitude_ratio": "amplitude", "sharpness_ratio": "sharpness", "temporal_l1": "temporal L1"}


def temposync(*arguments: str | Path) -> None:
    code = subprocess.run([sys.executable, "-m", "temposync_pipeline.cli", *map(str, arguments)]).returncode
    if code:
        sys.exit(code)  # it has said why


def judge(clip: Path, model: str, report: Path, rows: str) -> dict[str, dict]:
    """The figures of each row on one clip, by `temposync evaluate`."""
    temposync("evaluate", "--manifest", clip, "--model", model, "--rows", rows, "--json", report)
    return json.loads(report.read_text(encoding="utf-8"))["records"][0]["rows"]


def put_alone(clips: list[Path], folder: Path) -> Path:
    """A folder that holds these clips and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for clip in clips:
        shutil.copy2(clip, folder / clip.name)  # with its time of change, by which a prepared clip is known
    return folder


def table(results: list[dict[str, dict]]) -> str:
    lines = ["| | " + " | ".join(FIGURES.values()) + " |", "|---|" + "---|" * len(FIGURES)]
    for row in results[0]:
        cells = [f"{np.mean([result[row][name] for result in results]):.3f}" if name in results[0][row] else "" for name in FIGURES]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="temposync-tiny", help="the checkpoint to adapt")
    parser.add_argument("--hold_out", type=int, default=3, metavar="N", help="clips held out, one after the other")
    arguments = parser.parse_args()
    clips = sorted(path for path in arguments.data.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if len(clips) < 3 or not 1 <= arguments.hold_out <= len(clips):
        parser.error(f"{arguments.data}: {len(clips)} clips; at least three are needed, and as many as --hold_out")
    results = []
    for clip in clips[-arguments.hold_out:]:
        folder = arguments.output / clip.name.replace(".", "_")
        train = put_alone([other for other in clips if other != clip], folder / "clips")
        held_out = put_alone([clip], folder / "held_out")
        temposync("train", "student", "--init", arguments.model, "--data", train, "--output", folder / "run")
        before = judge(held_out, arguments.model, folder / "before.json", "student,still,vae")
        after = judge(held_out, str(folder / "run"), folder / "after.json", "student")
        results.append({"still portrait": before["still"], "before": before["student_4"], "after": after["student_4"],
                        "autoencoder (ceiling)": before["vae"]})
    written = arguments.output / "adapted.json"
    written.write_text(json.dumps({clip.name: result for clip, result in zip(clips[-arguments.hold_out:], results)}, indent=1) + "\n",
                       encoding="utf-8")
    written.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
