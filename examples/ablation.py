"""What each term of the student's loss is worth: one short run a row, each from the same weights, each row adding one term.

    python examples/ablation.py --data LATENTS --manifest VALIDATION --teacher runs/teacher --init runs/student_start --output runs/ablation

Rows: plain L_dist (equation 7), + consistency, + identity anchor (8, with cross-identity references, 12), + temporal term (9), + mouth
weights, + sync regulariser, + the data's own term (5), which is what the bundled student is trained with.  Every run has the same
number of steps, batches and seeds.  Each student is then measured at 1, 2, 4 and 8 steps, at mouth amplitude 1, by `temposync
evaluate`.  Writes ablation.json and ablation.md.

LATENTS: caches of `temposync_pipeline.training.latents`, the talkers' with sound.  VALIDATION: a folder or manifest of talkers that
no model was trained on.  The frozen networks are taken from the checkpoint BASE.
"""

import argparse
import json
import shutil
from pathlib import Path

from temposync_pipeline.checkpoints import checkpoint_folder
from temposync_pipeline.metrics.evaluate import run_evaluation
from temposync_pipeline.training.from_clips import copy_components
from temposync_pipeline.training.student import Config, train

STEPS = (4, 1, 2, 8)
PLAIN = {"data_weight": 0.0, "consistency_weight": 0.0, "identity_weight": 0.0, "cross_identity": 0.0, "temporal_weight": 0.0,
         "sync_weight": 0.0, "mouth_weight_floor": 1.0, "lip_weight": 1.0}
DEFAULT = Config()
ADDED = {
    "L_dist": {},
    "+ consistency": {"consistency_weight": DEFAULT.consistency_weight, "distillation_only": 0.0},
    "+ identity": {"identity_weight": DEFAULT.identity_weight, "cross_identity": DEFAULT.cross_identity},
    "+ temporal": {"temporal_weight": DEFAULT.temporal_weight},
    "+ mouth": {"mouth_weight_floor": DEFAULT.mouth_weight_floor, "lip_weight": DEFAULT.lip_weight},
    "+ sync": {"sync_weight": 0.05},
    "+ data": {"data_weight": DEFAULT.data_weight},
}
FIGURES = {"psnr_vae_lips": "PSNR of the lips, dB", "temporal_l1": "temporal L1", "flicker_std": "flicker", "lip_r": "lip r",
           "amplitude_ratio": "amplitude", "sharpness_ratio": "sharpness", "proxy_lse_d": "proxy LSE-D", "proxy_csim": "proxy CSIM"}


def table(results: dict[str, dict]) -> str:
    lines = ["| loss | steps | " + " | ".join(FIGURES.values()) + " |", "|---|---|" + "---|" * len(FIGURES)]
    for row, summary in results.items():
        for steps in sorted(STEPS):
            figures = summary[f"student_{steps}"]
            values = [f"{figures[name]['mean']:.3f}" if name in figures else "" for name in FIGURES]
            lines.append(f"| {row} | {steps} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "manifest", "teacher", "init", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--base", default="temposync-tiny")
    parser.add_argument("--max_steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=24)
    parser.add_argument("--limit", type=int, default=6, help="validation clips")
    parser.add_argument("--sources", default=None, help='JSON, as {"talkers_train": 0.4, "portraits_train": 0.6}')
    arguments = parser.parse_args()
    for path in (arguments.data, arguments.manifest, arguments.teacher, arguments.init):
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    base = checkpoint_folder(arguments.base, ())
    settings = dict(PLAIN)
    results = {}
    for row, added in ADDED.items():
        settings |= added
        folder = arguments.output / row.strip("+ ")
        copy_components(base, folder, teacher=False)
        shutil.copytree(base / "sync_expert", folder / "sync_expert", dirs_exist_ok=True)
        sources = {"sources": json.loads(arguments.sources)} if arguments.sources else {}
        train(Config(data=str(arguments.data), output=str(folder), teacher=str(arguments.teacher), init=str(arguments.init),
                     identity_encoder=str(base), vae=str(base), sync_expert=str(base), max_steps=arguments.max_steps,
                     batch_size=arguments.batch_size, learning_rate=3e-4, warmup_steps=20, validation_steps=(4,), **sources, **settings))
        results[row] = run_evaluation(arguments.manifest, model=str(folder), num_inference_steps=STEPS, limit=arguments.limit,
                                      rows=("student",), mouth_amplitude=1.0, output=folder / "report.json")["summary"]
        (arguments.output / "ablation.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (arguments.output / "ablation.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
