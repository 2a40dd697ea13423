"""How far a video is, and afterwards how long each stage took, as HTML."""

from .studio import STAGES, Progress


def draw_status(progress: Progress, fps: float) -> str:
    """A bar while the video is made, a line of times when it is finished."""
    fps = progress.fps or fps
    if progress.finished:
        parts = " · ".join(f"{STAGES[stage].lower()} {seconds:.1f} s" for stage, seconds in progress.seconds.items())
        title = f"{progress.total / fps:.1f} s of video in {sum(progress.seconds.values()):.1f} s"
        return f'<div class="status"><b>{title}</b><br><small>{parts}</small></div>'
    percent = round(100 * progress.frames / progress.total) if progress.total else 0
    count = f": {progress.frames} of {progress.total} frames" if progress.frames else " …"
    return (
        f'<div class="status"><div class="bar" role="progressbar" aria-valuenow="{percent}"><div style="width: {percent}%"></div></div>'
        f"<small>{STAGES[progress.stage]}{count}</small></div>"
    )


def timings(progress: Progress, fps: float) -> dict[str, float]:
    """The same for programs: {"frames", "duration" of the video, "total_seconds" it took, and "<stage>_seconds"}."""
    seconds = {f"{stage}_seconds": round(value, 3) for stage, value in progress.seconds.items()}
    duration = progress.frames / (progress.fps or fps)
    return {"frames": progress.frames, "duration": duration, "total_seconds": round(sum(seconds.values()), 3), **seconds}
