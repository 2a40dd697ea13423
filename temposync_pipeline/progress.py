"""Which progress bars a user sees."""

from . import startup
from .terminal import is_watched


def hide_loading_bars() -> None:
    """Loading takes a second; its bars would stand between the user and the one line of an error. Downloads show one on a terminal."""
    import huggingface_hub.utils

    huggingface_hub.utils.logging.set_verbosity_error()
    if not is_watched():
        huggingface_hub.utils.disable_progress_bars()
    if startup.lean:
        return
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
