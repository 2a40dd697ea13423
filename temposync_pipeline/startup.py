"""Which classes models, schedulers and pipelines inherit in this process (`bases`); the choice is made before any of them is imported."""

import sys

lean = False


def start_lean() -> None:
    """Let the process do without diffusers and transformers, unless it has imported them: their import takes longer than most videos.

    For processes that only make videos, such as `temposync generate`. Programs that import `temposync_pipeline` get the libraries' classes.
    """
    global lean
    lean = not {"diffusers", f"{__package__}.bases"} & set(sys.modules)


def start_full() -> None:
    """Take `start_lean` back; without effect once models are imported."""
    global lean
    lean &= f"{__package__}.bases" in sys.modules
