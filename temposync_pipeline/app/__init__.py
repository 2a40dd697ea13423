"""What the demo app does, without its page: `app.py` at the root of the repository builds that."""

from .studio import Studio
from .timeline import draw_timeline

__all__ = ["Studio", "draw_timeline"]
