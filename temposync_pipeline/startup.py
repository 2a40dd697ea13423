"""What is chosen once for a process, before models are imported: the classes that they inherit (`bases`), how patiently threads wait."""

import ctypes
import os
import sys

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # M_MMAP_THRESHOLD and M_ARENA_MAX of malloc.h

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


def yield_cores() -> None:
    """Let torch's threads that wait for each other give up the core after some microseconds, unless the environment says otherwise.

    OpenMP's own patience is far longer, in which nothing else can use the core: on two cores that others use, too, it was most of what a
    video cost.  NumPy's products are so small here that OpenBLAS's threads, which wait likewise, only cost: the voice in two seconds of
    sound was found in 3 ms by one of them, in 15 by two on busy cores.  To be called before torch and NumPy are imported; it changes no
    result.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def keep_little() -> None:
    """Let torch forget how it prepared a layer for inputs of a size, with the memory to work in, as soon as there is another, and oneDNN
    most of its programs. And let all threads share one heap, so that one uses what another has freed, for all but what takes a megabyte,
    which goes back to the system at once (glibc would raise that limit).

    Unless the environment says otherwise; to be called before torch is imported; it changes no result.
    """
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    if "MALLOC_ARENA_MAX" not in os.environ:
        share_heaps(1)
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        _set_malloc(_MMAP_THRESHOLD, 2**20)


def share_heaps(count: int) -> None:
    """From now on all threads share so many heaps of glibc; elsewhere they stay."""
    _set_malloc(_ARENA_MAX, count)


def _set_malloc(parameter: int, value: int) -> None:
    """Of glibc; elsewhere nothing."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(parameter, value)


def give_back() -> None:
    """What is free in the heaps of glibc, to the system; takes milliseconds. Elsewhere nothing."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
