"""Which progress bars a user sees."""

import sys


def hide_loading_bars() -> None:
    """Loading takes a second; its bars would stand between the user and the one line of an error. Downloads show one on a terminal."""
    import diffusers.utils.logging
    import huggingface_hub.utils
    import transformers.utils.logging

    huggingface_hub.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
