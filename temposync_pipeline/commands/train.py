"""`temposync train` and `manifest`: from a folder of clips to a model."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidInputError
from ..progress import hide_loading_bars
from ..terminal import say
from .checks import check_files, check_folder, check_model, check_name, check_writable, choose_device, write_json
from .options import Device, JsonFile, Model

if TYPE_CHECKING:
    from ..data.manifest import Clip
    from ..training.loop import LoopConfig

STAGES = ("aligner", "autoencoder", "decoder", "inner_mouth", "voice", "visemes", "ear", "identity", "sync", "lips", "teacher", "student",
          "temporal", "speech", "read", "asym_teacher", "asym_student")


def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=", ".join(STAGES))],
    data: Annotated[Path | None, typer.Option(help="The stage's training data; for teacher and student also a folder of clips.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run: weights, checkpoint, log, TensorBoard's curves.")] = None,
    init: Annotated[str | None, typer.Option(help="Start from this model: a bundled checkpoint, a directory, or org/name.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Train one of the models, or adapt one to a person.  Options here overrule the YAML file, and that overrules the stage's defaults.

    Example: temposync train student --init temposync-tiny --data clips --output runs/person

    Teacher and student take a plain folder of clips: it is prepared once, into the run's folder, and that folder then loads as a model.
    Several processes: torchrun --nproc_per_node 2 -m temposync_pipeline.cli train ...
    """
    if stage not in STAGES:
        raise InvalidInputError(f"{stage}: not a stage ({', '.join(STAGES)})")
    check_files((data, config), (json_file,), (init and Path(init),))
    from ..training.settings import build_config, read_settings

    options = {"data": data and str(data), "output": output and str(output), "init": init, "resume": resume or None}
    values = read_settings(config, settings or []) | {name: value for name, value in options.items() if value is not None}
    values |= {name: str(values[name]) for name in ("data", "output", "init") if values.get(name)}  # YAML may make anything of a name
    if values.get("data"):
        check_files((Path(values["data"]),))
    if values.get("output"):
        _check_run_folder(Path(values["output"]), values)
    if values.get("init"):
        check_model(values["init"])
    values["device"] = choose_device(str(values.get("device", device)))
    from importlib import import_module

    from ..training.from_clips import settings_for_clips, takes_clips, train_on_clips
    from ..training.stages import initial_weights

    hide_loading_bars()
    module = import_module(f"..training.{stage}", __package__)
    if takes_clips(stage, values.get("data")):
        config = build_config(module.Config, settings_for_clips(stage, values))
        figures = train_on_clips(stage, config, module.train)
    else:
        if values.get("init"):
            values["init"] = initial_weights(stage, values["init"])
        config = build_config(module.Config, values)
        _check_data(stage, config)
        figures = module.train(config)
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first one speaks
        write_json(json_file, figures)
        for name, value in figures.items():
            say(f"{name} {value}")
        if not figures:
            say("no validation figures: nothing was held out", err=True)
        say(_how_to_use(Path(config.output)))


def _how_to_use(run: Path) -> str:
    """The last line of a training: where its result lies, and for a whole checkpoint what it is good for."""
    if (run / "model_index.json").exists():
        return f"{run}: use it with temposync generate --model {shlex.quote(str(run))} --image PORTRAIT --audio SPEECH"
    if any(run.glob("*lora*.safetensors")):
        quoted = shlex.quote(str(run))
        return f"{run}: an adapter; use it with temposync generate --model CHECKPOINT --lora {quoted} --image PORTRAIT --audio SPEECH"
    return f"{run}: the weights, and the checkpoint that --resume goes on from"


def _check_data(stage: str, config: "LoopConfig") -> None:
    """Raises InvalidInputError where there is nothing to train on; the visemes' corpus, once made, is enough."""
    if not any(Path(folder).exists() for folder in (config.data, getattr(config, "corpus", config.data))):
        raise InvalidInputError(f"train {stage} needs data to train on; say where it is with --data")


def _check_run_folder(output: Path, settings: Mapping[str, Any]) -> None:
    """Raises InvalidInputError unless the folder can be written to, or made, and is none of the folders among the other settings, which
    are read from, nor, but for the data's, lies in one: that is a checkpoint or another run."""
    check_name(output)
    target = Path(os.path.realpath(output))
    for name, value in settings.items():
        if name in ("output", "device") or not isinstance(value, str) or not os.path.isdir(value):
            continue
        read = Path(os.path.realpath(value))
        if target == read or name != "data" and target.is_relative_to(read):
            raise InvalidInputError(f"{output}: the run's folder would lie in {value}, which the run reads")
    existing = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise InvalidInputError(f"{output}: {existing.name} is not a folder")
    check_writable(existing, output)


def manifest(
    data: Annotated[Path, typer.Option(help="Folder of clips, <talker>/<clip>.mp4 or deeper, with .txt or .align files beside them.")],
    output: Annotated[Path, typer.Option(help="The JSON Lines file to write.")] = Path("manifest.jsonl"),
    validation: Annotated[float, typer.Option(min=0, max=1, help="Share of the talkers to hold out, where no folder is called val.")] = 0.1,
    offsets: Annotated[bool, typer.Option("--offsets", help="Find out how late each clip's sound is; looks at every frame.")] = False,
    model: Model = "temposync-tiny",
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """List a folder's clips with their talkers and splits, as training and evaluation read them.  LRS3 and GRID folders work as they are.

    Example: temposync manifest --data clips --output manifest.jsonl

    A clip that cannot be decoded is named on stderr and left out. With --offsets each line of the file says how many seconds the sound
    is late ("offset"; missing where that cannot be told); training and evaluation then need not find out themselves.
    """
    check_files((data,), (output, json_file), (Path(model),))
    check_folder(data)
    if offsets:
        check_model(model)
    from ..data.manifest import SPLITS, build_manifest, split_by_talker, usable_clips, write_manifest

    found = build_manifest(data)
    clips = split_by_talker(usable_clips(found, lambda line: say(line, err=True)), validation)
    if not clips:
        raise InvalidInputError(f"{data}: none of its {len(found)} clips can be used")
    if offsets:
        clips = _find_offsets(clips, model, choose_device(device))
    write_manifest(clips, output)
    counts = {}
    for split in SPLITS:
        own = [clip for clip in clips if clip.split == split]
        counts[split] = {"clips": len(own), "talkers": len({clip.talker for clip in own})}
        say(f"{split}: {counts[split]['clips']} clips of {counts[split]['talkers']} talkers")
    write_json(json_file, {"output": str(output), "skipped": len(found) - len(clips), **counts})
    say(output)


def _find_offsets(clips: list["Clip"], model: str, device: str) -> list["Clip"]:
    """The clips with their offsets, each printed; faces are tracked by the checkpoint's aligner."""
    from ..metrics.offset import describe_offset, find_offsets

    hide_loading_bars()
    found = []
    for clip in find_offsets(clips, model, device):
        say(f"{clip.id}: {describe_offset(clip.offset)}")
        found.append(clip)
    return found
