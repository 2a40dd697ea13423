"""`temposync evaluate`: how well generated faces follow real talkers that no model was trained on.

Five protocols:

* `self`: each clip's first frame is the portrait and the clip's own sound the voice, so the clip itself is the truth.  Rows put the
  figures in place: noise, the teacher, the still portrait, another talker's voice, and the autoencoder's reconstruction of the real
  frames, the most that any generator in its latent space can reach (`protocols.ROWS`).
* `natural`: the same for any folder of clips of people who talk freely: what is easy in drilled sentences is not there.
* `cross`: the portrait of one talker with the voice of another.  The lips must follow the other talker's real lips and not those of
  the portrait's own clip; for that to be told apart, pairs are chosen whose real lips hardly correlate.
* `portraits`: photographs of people who never speak anywhere in the data, with the talkers' voices.
* `dubbed`: clips as films, dubbed with the voice of another clip, of somebody else where there is one: whose lips are followed then, and
  whether all but the mouth stays as it was filmed.

A sixth, `long`, is of another kind: minutes of speech, minute by minute (`metrics.long_run`).

Sound that is late is moved first, in all of them (`metrics.offset`).  Where it is known what is said, closures are counted
(`metrics.closures`).  Of long clips the first `protocols.MAX_FRAMES` count.  Generated landmarks come from the checkpoint's own face
aligner; so do the real ones, unless the manifest names better ones.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import torch
from tqdm import tqdm

from ..data.manifest import Clip
from ..errors import InvalidInputError
from ..face.landmarks import lip_opening
from ..files import write_whole
from ..models.denoiser_temposync import TempoSyncDenoiser
from ..models.sync_expert import SyncExpert
from ..pipelines.auto import load_pipeline
from ..pipelines.pipeline_temposync import TempoSyncPipeline
from ..pipelines.talking_head import TalkingHeadPipeline
from ..progress import hide_loading_bars
from ..schedulers.scheduling_temposync import TempoSyncScheduler
from . import judge
from .clip_selection import dubbed_pairs, other_voice, read_clips, read_portraits, uncorrelated_pairs
from .closures import closures_by_talker
from .crop_video import JUDGES, VideoMaker
from .linear_baseline import RADII, LinearBaseline
from .offset import OffsetEstimator
from .optional_components import load_optional
from .protocols import ROWS, Evaluator
from .report import FIGURES, Example, markdown, summarise
from .voice import Listener
from .workers import perform_in_processes

PROTOCOLS = ("self", "natural", "cross", "portraits", "dubbed")
MAX_EXAMPLES = 6
DRIVER = {"driver_clip": "the driver's real video: real synchrony, another face"}
OWN_CLIP = {"real_clip": "the talker's own lips"}
PORTRAITS_CLIP = {"…_vs_own_clip": "the same lips against the portrait's own clip",
                  "own_clip": "that clip's real video beside the driver's voice and lips"}
FIRST_FRAME = {"student": "the first frame as a portrait, with the same voice: it never saw the film's lips"}
CONTROLS = {
    "self": OWN_CLIP, "natural": OWN_CLIP, "cross": PORTRAITS_CLIP | DRIVER, "dubbed": FIRST_FRAME | PORTRAITS_CLIP,
    "portraits": {"…_closed_portraits, …_smiling_portraits": "the same by the portrait's own mouth", **DRIVER},
}


def teacher_pipeline(pipe: TempoSyncPipeline, teacher: TempoSyncDenoiser) -> TempoSyncPipeline:
    """The same pipeline around the teacher, which takes many stochastic steps over the whole range of noise levels and hears the same."""
    noise = {name: pipe.scheduler.config[name] for name in ("sigma_max", "sigma_data", "rho")}
    scheduler = TempoSyncScheduler(prediction="sde", **noise)
    return TempoSyncPipeline(**pipe.components | {"denoiser": teacher, "scheduler": scheduler}, fps=pipe.config.fps,
                             viseme_smoothing=pipe.config.viseme_smoothing, motion_floor=pipe.config.motion_floor)


def build_evaluator(
    model: str, steps: Sequence[int], teacher_steps: int, rows: Sequence[str], mouth_amplitude: float | None, device: str,
    guidances: Sequence[tuple[float, float]] = (),
) -> tuple[Evaluator, list[str]]:
    """The evaluator of a checkpoint, and notes on what the checkpoint cannot show."""
    pipe = load_pipeline(model).to(device)
    teacher = load_optional(TempoSyncDenoiser, model, "teacher", device) if "teacher" in rows else None
    expert = load_optional(SyncExpert, model, "sync_expert", device)
    notes = []
    if expert is None and pipe.default_composition == "face":
        expert = load_optional(SyncExpert, JUDGES, "sync_expert", device)
        notes.append(f"identity and synchrony are judged by the networks of {JUDGES}")
    if "teacher" in rows and teacher is None:
        notes.append("no row `teacher`: the checkpoint has none")
    if expert is None:
        notes.append("no proxy LSE and offset: the checkpoint has no sync expert")
    if not judge.is_installed():
        notes.append("no CSIM: dlib's face embedding is not installed (pip install '.[judge]')")
    taught = None if teacher is None else teacher_pipeline(pipe, teacher)
    for pipeline in filter(None, (pipe, taught)):
        pipeline.set_progress_bar_config(disable=True)
    listener, deaf = build_listener(pipe, model, rows, device)
    maker = VideoMaker(pipe, taught, mouth_amplitude, **guidance_options(pipe, model, guidances[:1]))
    return Evaluator(maker, tuple(steps), teacher_steps, tuple(rows), expert, listener, tuple(guidances[1:])), notes + deaf


def guidance_options(pipe: TalkingHeadPipeline, model: str, guidances: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Arguments of the pipeline's calls for one guidance towards portrait and speech, or for none: then as it is set.

    Raises InvalidInputError for a checkpoint that takes none.
    """
    if not guidances:
        return {}
    if "speech_guidance" not in pipe.SETTINGS:
        raise InvalidInputError(f"{model}: takes no guidance")
    (portrait, speech), = guidances
    return {"portrait_guidance": portrait, "speech_guidance": speech}


def build_listener(pipe: TalkingHeadPipeline, model: str, rows: Sequence[str], device: str) -> tuple[Listener, list[str]]:
    """What reads the clips' voices, and notes on what it cannot do."""
    classifier, notes = pipe.viseme_classifier, []
    baselines = {reads: load_optional(LinearBaseline, model, f"linear_baseline_{reads}", device) for reads in RADII}
    for reads, baseline in baselines.items():
        if baseline is not None and not baseline.fits(classifier):
            baselines[reads] = None
            notes.append(f"no row `linear_baseline_{reads}`: it was fitted to another classifier")
        elif baseline is None and "linear_baseline" in rows:
            notes.append(f"no row `linear_baseline_{reads}`: the checkpoint has none")
    offsets = OffsetEstimator.of_networks(classifier, pipe.lip_motion, baselines["hidden"])
    if offsets is None:
        notes.append("sound is taken as it is: the checkpoint has nothing to tell by whether it is late")
    aligns = find_spec("pocketsphinx") is not None
    if not aligns:
        notes.append("no closures of p, b, m: pocketsphinx is not installed")
    wanted = {reads: baseline for reads, baseline in baselines.items() if baseline is not None and "linear_baseline" in rows}
    return Listener(classifier, wanted, offsets, aligns), notes


class Task(NamedTuple):
    """One item of a protocol: a method of `Evaluator` and its arguments."""

    name: str
    method: Callable[..., tuple[dict, Example]]
    arguments: tuple


class Result(NamedTuple):
    """What became of it: record and example, or the input's error; and the seconds that each row took."""

    record: dict | None
    example: Example | None
    error: str | None
    seconds: dict[str, float]


def list_tasks(
    evaluator: Evaluator, protocol: str, clips: list[Clip], limit: int | None, portraits: list[Path], bar: tqdm
) -> list[Task]:
    """What a protocol has to do, an item a task."""
    if protocol in ("self", "natural"):
        return [Task(clip.id, Evaluator.self_driven, (clip, other_voice(clips, i))) for i, clip in enumerate(clips[:limit])]
    if protocol == "portraits":
        drivers = [i % len(clips) for i in range(len(portraits))]
        return [Task(f"{file.name} with the voice of {clips[i].id}", Evaluator.portrait_driven, (file, clips[i], other_voice(clips, i)))
                for file, i in zip(portraits[:limit], drivers)]
    if protocol == "dubbed":
        films = dubbed_pairs(clips)[:limit]
        return [Task(f"{film.id} with the voice of {driver.id}", Evaluator.dubbed, (film, driver)) for film, driver in films]
    bar.set_postfix_str("looking at the real lips")
    strangers = len({clip.talker for clip in clips}) > 1
    pairs = uncorrelated_pairs(clips, [lip_opening(evaluator.real_landmarks(clip)) for clip in clips], strangers)[:limit]
    return [Task(f"{portrait.id} with the voice of {driver.id}", Evaluator.cross_driven,
                 (portrait, driver, other_voice(clips, clips.index(driver)))) for portrait, driver in pairs]


def perform(evaluator: Evaluator, task: Task) -> Result:
    evaluator.seconds.clear()
    try:
        record, example = task.method(evaluator, *task.arguments)
        return Result(record, example, None, dict(evaluator.seconds))
    except InvalidInputError as error:
        return Result(None, None, str(error), dict(evaluator.seconds))


def start_worker(threads: int, arguments: tuple) -> Callable[[Task], Result]:
    """What a process of its own begins with; `arguments` are those of `build_evaluator`."""
    torch.set_num_threads(threads)
    hide_loading_bars()
    # The usual one is shared between processes, and one that is killed leaves it to the system.
    tqdm.set_lock(RLock())
    return partial(perform, build_evaluator(*arguments)[0])


def perform_all(evaluator: Evaluator, tasks: list[Task], processes: int, arguments: tuple, bar: tqdm) -> list[Result]:
    """The results in the order of the tasks; with several processes, each starts with `start_worker` and `arguments`."""
    processes = min(processes, len(tasks))
    if processes > 1:
        threads = max(1, torch.get_num_threads() // processes)
        work = perform_in_processes(start_worker, (threads, arguments), tasks, processes)
    else:
        work = ((index, perform(evaluator, task)) for index, task in enumerate(tasks))
    results: dict[int, Result] = {}
    with closing(work):
        for index, result in work:
            # Pictures show the first few items; the others' would fill the memory.
            results[index] = result if index < MAX_EXAMPLES else result._replace(example=None)
            bar.set_postfix_str(tasks[index].name)
            bar.update()
    return [results[index] for index in range(len(tasks))]


def run_evaluation(
    manifest: Path,
    model: str = "temposync-tiny",
    num_inference_steps: Sequence[int] = (4,),
    limit: int | None = None,
    protocol: str = "self",
    output: Path | None = None,
    landmarks: Path | None = None,
    portraits: Path | None = None,
    held_out_only: bool = False,
    rows: Sequence[str] = tuple(ROWS),
    teacher_steps: int = 25,
    mouth_amplitude: float | None = None,
    device: str = "cpu",
    processes: int = 1,
    guidances: Sequence[tuple[float, float]] = (),
) -> dict:
    """Evaluate a checkpoint; returns the report, and writes it to `output` (.json, with tables and pictures beside).

    Args:
        manifest: talkers that no model was trained on: a JSON Lines file or a folder (`data.manifest`); where it marks clips as
            validation, only those are used.
        model: a bundled checkpoint, a directory or a repository on the Hub.
        num_inference_steps: the student's numbers of steps; the first one also makes the controls and the pictures.
        limit: at most this many clips, pairs or portraits.
        protocol: "self", "natural", "cross", "portraits" or "dubbed" (see the module).
        landmarks: folder of better landmarks `<clip id>.npz` for the clips of a folder; None tracks them.
        portraits: folder of photographs, for the protocol "portraits".
        held_out_only: of those, only the ones that `portrait_split` keeps from training.
        rows: which of `protocols.ROWS` to make; the teacher takes most of the time.
        mouth_amplitude: of the student; None takes the checkpoint's.
        processes: how many work on items at a time, sharing the threads; each holds the checkpoint once more.
        guidances: towards portrait and speech (`ReadPipeline`); none takes the checkpoint's. The first one also makes the controls, each
            further one a row `student_<steps>_guidance_<portrait>_<speech>` for each number of steps.

    The report, which is the JSON:

        {"protocol", "model", "num_inference_steps": [int], "teacher_steps", "mouth_amplitude", "guidances",
         "rows": {row: what it is}, "figures": {figure: heading with unit and direction},
         "summary": {row: {figure: {"mean", "std", "n"}}},      over items; std is the population's
         "records": [{"name", "talker", "offset", "rows": {row: {figure: value}}}], one an item; the talker who is heard, and the seconds
                                                                by which the sound was late, null where that cannot be told
         "closures": {row: {talker or "all": {"closures", "shut"}}},
         "failures": [{"name", "error"}],                       items left out for their input's sake
         "notes": [str], "seconds": {row: total}}

    Raises InvalidInputError for unusable arguments.
    """
    _check(protocol, rows, num_inference_steps, teacher_steps)
    clips = read_clips(manifest, landmarks)
    if protocol == "cross" and len({clip.talker for clip in clips}) < 2:
        raise InvalidInputError("the protocol 'cross' needs clips of two talkers or more")
    files = read_portraits(portraits, held_out_only) if protocol == "portraits" else []
    arguments = (model, tuple(num_inference_steps), teacher_steps, tuple(rows), mouth_amplitude, device, tuple(guidances))
    evaluator, notes = build_evaluator(*arguments)
    with tqdm(desc=protocol, unit="item") as bar:
        tasks = list_tasks(evaluator, protocol, clips, limit, files, bar)
        bar.reset(len(tasks))
        results = perform_all(evaluator, tasks, processes, arguments, bar)
    records = [result.record for result in results if result.record is not None]
    examples = [result.example for result in results if result.example is not None]
    failures = [{"name": task.name, "error": result.error} for task, result in zip(tasks, results) if result.error is not None]
    if not any(record["rows"] for record in records):
        reasons = [f"{failure['name']}: {failure['error']}" for failure in failures] + [note for note in notes if note.startswith("no row")]
        reasons += [f"the protocol {protocol} makes none of these rows" if tasks else "no two talkers move their lips differently enough"]
        raise InvalidInputError(f"nothing could be measured; {reasons[0]}")
    seconds = sum((Counter(result.seconds) for result in results), Counter())
    summary = summarise(records)
    report = {
        "protocol": protocol, "model": Path(model).name if Path(model).is_dir() else str(model),
        "num_inference_steps": list(num_inference_steps), "teacher_steps": teacher_steps,
        "mouth_amplitude": evaluator.maker.pipe.config.mouth_amplitude if mouth_amplitude is None else mouth_amplitude,
        "guidances": [list(guidance) for guidance in guidances],
        "rows": {row: ROWS[row] for row in rows if any(made.startswith(row) for made in summary)} | CONTROLS[protocol], "figures": FIGURES,
        "summary": summary, "records": records, "closures": closures_by_talker(records), "failures": failures,
        "notes": notes + list(dict.fromkeys(record["note"] for record in records if "note" in record)),
        "seconds": {row: round(taken, 2) for row, taken in seconds.items()},
    }
    if output is not None:
        _write(report, examples, Path(output))
    return report


def _check(protocol: str, rows: Sequence[str], num_inference_steps: Sequence[int], teacher_steps: int) -> None:
    if protocol not in PROTOCOLS:
        raise InvalidInputError(f"{protocol}: not a protocol ({', '.join(PROTOCOLS)})")
    if not rows:
        raise InvalidInputError(f"--rows names no row of the table ({', '.join(ROWS)})")
    for row in rows:
        if row not in ROWS:
            raise InvalidInputError(f"{row}: not a row ({', '.join(ROWS)})")
    if not num_inference_steps or min(*num_inference_steps, teacher_steps) < 1:
        raise InvalidInputError("the numbers of steps must be at least 1")


def _write(report: dict, examples: list[Example], output: Path) -> None:
    """The JSON `output`, the tables (.md) and, where matplotlib is installed, the pictures (.png) beside it."""
    if find_spec("matplotlib") is None:
        report["notes"].append("no pictures: matplotlib is not installed")
    write_whole(output, json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_whole(output.with_suffix(".md"), markdown(report))
    if find_spec("matplotlib") is not None:
        from .plots import write_pictures

        write_pictures(report, examples, output)
