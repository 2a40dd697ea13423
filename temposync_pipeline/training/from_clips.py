"""Stages `teacher` and `student` on a plain folder of clips: prepare it, train, leave a checkpoint that the pipeline loads.

    temposync train student --init temposync-tiny --data CLIPS --output runs/person

With `--init` this adapts a checkpoint to the people in the clips; without, it trains a denoiser from scratch in the latent space of
`temposync-tiny`.  Face aligner, viseme classifier, autoencoder and identity encoder stay as they are.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..checkpoints import checkpoint_folder
from ..errors import InvalidInputError
from ..pipelines.publishing import add_code
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from .clip_latents import is_latent_cache, prepare_latents
from .denoising import DenoiserConfig
from .stages import initial_weights

BASE = "temposync-tiny"
# What a few hundred frames of one person call for; examples/train/finetune.yaml says why.
FINE_TUNING = {
    "max_steps": 100, "learning_rate": 1e-4, "final_learning_rate": 1e-5, "warmup_steps": 20, "ema_decay": 0.98, "batch_size": 24,
    "sources": {"talkers_train": 1.0}, "validation_sources": {"talkers_val": 1.0}, "validation_count": 64,
    "identity_weight": 0.0, "temporal_weight": 0.0, "validate_every_minutes": 2.0, "checkpoint_every_minutes": 2.0,
}


def takes_clips(stage: str, data: str | None) -> bool:
    """Whether the stage would be given clips; a folder of latent caches (`training.latents`) it reads by itself."""
    return stage in ("teacher", "student") and data is not None and not is_latent_cache(Path(data))


def settings_for_clips(stage: str, values: dict[str, Any]) -> dict[str, Any]:
    """The stage's settings with those of `values` and, for what these leave open, defaults that suit clips."""
    base = str(checkpoint_folder(values.get("init") or BASE, ("vae", "identity_encoder", "face_aligner", "viseme_classifier")))
    defaults = {"identity_encoder": base, "vae": base}
    if values.get("init"):
        defaults |= FINE_TUNING
    if values.get("init") and stage == "student":
        # No teacher in memory: the data of one person say enough, at a third of the cost.
        scheduler = TempoSyncScheduler.from_pretrained(base, subfolder="scheduler")
        defaults |= {"teacher": "", "data_weight": 1.0, "sigma_min": scheduler.config.sigma_min}
    if values.get("lora_rank"):
        # Adapters learn best at about ten times the rate of full weights (Schulman et al. 2025, "LoRA Without Regret").
        defaults |= {"learning_rate": 1e-3, "final_learning_rate": 1e-4}
    if "max_minutes" in values:
        defaults.pop("max_steps", None)
    return defaults | values


def train_on_clips(stage: str, config: DenoiserConfig, train: Callable[[DenoiserConfig], dict[str, float]]) -> dict[str, float]:
    """Prepare the clips in `config.data` once, run the stage's `train` on them, and complete its output to a pipeline's folder.

    An adapter (`lora_rank`) stands alone: it is loaded beside the checkpoint that it adapts.
    """
    base, output = checkpoint_folder(config.init or BASE, ()), Path(config.output)
    if output.exists() and output.samefile(base):
        raise InvalidInputError(f"{output}: the output is the checkpoint to start from")
    _check_networks(config)
    clips, latents, adapter = Path(config.data), output / "latents", bool(getattr(config, "lora_rank", 0))
    with PartialState(cpu=config.device == "cpu").main_process_first():
        if PartialState().is_main_process:
            prepare_latents(clips, latents, config.init or BASE, config.device, by_talker=not config.init)
            if not adapter:
                copy_components(base, output, teacher=stage == "teacher")
    if not (latents / "talkers_train.safetensors").exists():
        raise InvalidInputError(f"{clips}: all of its clips are for validation, none is left to train on")
    present = {name: share for name, share in config.sources.items() if (latents / f"{name}.safetensors").exists()}
    first = initial_weights(stage, config.init) if config.init else ""
    config = replace(config, data=str(latents), sources=present or {"talkers_train": 1.0}, init=first)
    figures = train(config)
    if stage == "student" and config.init and not adapter and not config.adapt_steps and PartialState().is_main_process:
        # The noise levels that were placed for the student it started from.
        shutil.copytree(base / "scheduler", output / "scheduler", dirs_exist_ok=True)
    return figures


def _check_networks(config: DenoiserConfig) -> None:
    """Raises InvalidInputError where a network that the loss needs is missing: preparing the clips takes long."""
    needed = {"teacher": getattr(config, "teacher", ""), "identity_encoder": config.identity_encoder,
              "vae": config.vae if config.temporal_weight else "", "sync_expert": config.sync_expert if config.sync_weight else ""}
    for setting, folder in needed.items():
        if folder and not Path(folder).is_dir():
            raise InvalidInputError(f"{folder}: no such folder; the stage needs it as its {setting}")


def copy_components(base: Path, output: Path, teacher: bool) -> None:
    """Everything of the pipeline in `base` but its denoiser, which the run will write; a teacher brings its own scheduler."""
    index = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
    parts = [name for name, value in index.items() if isinstance(value, list) and (base / name).is_dir() and name != "denoiser"]
    output.mkdir(parents=True, exist_ok=True)
    for name in parts:
        shutil.copytree(base / name, output / name, dirs_exist_ok=True)
    if teacher:
        TempoSyncScheduler(prediction="sde").save_pretrained(output / "scheduler")
        # Twenty-five steps show the motion in full.
        index["mouth_amplitude"] = 1.0
    (output / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    add_code(output)
