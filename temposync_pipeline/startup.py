"""What is chosen once for a process, before models are imported: the classes that they inherit (`bases`), how patiently threads wait."""

import ctypes
import gc
import linecache
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h
_MB = 2**20

lean = False
_expects_long_work = False


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
    those of its programs that a video does not ask for again and again. And let all threads share one heap, so that one uses what another
    has freed, for all but what takes a megabyte, which goes back to the system at once (glibc would raise that limit). Four megabytes free
    at the heap's end may stay: to ask for all of it again, page by page, took a quarter of the decoder's time.

    Unless the environment says otherwise; to be called before torch is imported; it changes no result.
    """
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "96")
    if "MALLOC_ARENA_MAX" not in os.environ:
        share_heaps(1)
    _keep_free(1, 4)


def expect_long_work() -> None:
    """Take some 10 to 20 MB more than `keep_little` for a tenth less time, which long work is worth: what networks ask for again and again
    stays in the heap, and Python no longer looks for garbage in what is there by now."""
    global _expects_long_work
    _keep_free(2, 8)
    if not _expects_long_work:  # what is garbage at the time stays: once is enough
        gc.freeze()
    _expects_long_work = True


def _keep_free(block: int, end: int) -> None:
    """Megabytes that a block must have not to come from the heap, and that may stay free at the heap's end; unless the environment says
    otherwise."""
    for name, parameter, size in (("MALLOC_MMAP_THRESHOLD_", _MMAP_THRESHOLD, block), ("MALLOC_TRIM_THRESHOLD_", _TRIM_THRESHOLD, end)):
        if name not in os.environ:
            _set_malloc(parameter, size * _MB)


def share_heaps(count: int) -> None:
    """From now on all threads share so many heaps of glibc; elsewhere they stay."""
    _set_malloc(_ARENA_MAX, count)


def _set_malloc(parameter: int, value: int) -> None:
    """Of glibc; elsewhere nothing."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(parameter, value)


def give_back() -> None:
    """What is free in the heaps of glibc, to the system, elsewhere nothing, and the source code that torch has read while it was imported;
    takes milliseconds."""
    linecache.clearcache()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
