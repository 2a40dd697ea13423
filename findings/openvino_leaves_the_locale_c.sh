#!/usr/bin/env bash
# OpenVINO and the locale: two threads that compile models at the same time, with a cache on disk, may leave the whole process in the
# locale "C", in which Python reads and writes text files in ASCII.
#
# Seen with openvino 2026.4.1 (Linux x86-64 wheel, Python 3.11).  With CACHE_DIR, `compile_model` seems to set the process's locale to "C"
# and, when it is done, back to what it found; of two threads the later one finds "C".  Without CACHE_DIR, or in one thread, the
# locale stays.  From then on `open(path)` fails at the first letter that is no ASCII, far from OpenVINO.  Who compiles in threads
# lets one of them compile at a time.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "openvino==2026.4.1" "numpy<2.5" 2> /dev/null
cat > "$work/compile.py" <<'P'
import locale, sys, threading
from importlib.metadata import version
import numpy as np
import openvino
from openvino import opset13 as ops

folder, lock = sys.argv[1], threading.Lock()
print("openvino", version("openvino"))
place = ops.parameter([1, 4], np.float32)
openvino.save_model(openvino.Model([ops.relu(ops.multiply(place, ops.constant(np.float32(1.5))))], [place]), f"{folder}/model.xml")


def compile_often(settings, one_at_a_time):
    core = openvino.Core()
    for _ in range(60):
        if one_at_a_time:
            with lock:
                core.compile_model(f"{folder}/model.xml", "CPU", settings)
        else:
            core.compile_model(f"{folder}/model.xml", "CPU", settings)


def encoding_after(threads, settings, one_at_a_time=False):
    """Python's encoding of text files afterwards: of up to ten tries the first that is another than before."""
    for _ in range(10):
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        working = [threading.Thread(target=compile_often, args=(settings, one_at_a_time)) for _ in range(threads)]
        for thread in working:
            thread.start()
        for thread in working:
            thread.join()
        if locale.getpreferredencoding(False) != "UTF-8":
            break
    return f"{locale.setlocale(locale.LC_CTYPE)}, {locale.getpreferredencoding(False)}"


cache = {"CACHE_DIR": f"{folder}/cache"}
print("one thread with a cache:", encoding_after(1, cache))
print("two threads without:", encoding_after(2, {}))
print("two threads with a cache, one at a time:", encoding_after(2, cache, one_at_a_time=True))
print("two threads with a cache:", encoding_after(2, cache))
P
LC_ALL=C.UTF-8 "$work/venv/bin/python" -X utf8=0 "$work/compile.py" "$work" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'T'
openvino 2026.4.1
one thread with a cache: C.UTF-8, UTF-8
two threads without: C.UTF-8, UTF-8
two threads with a cache, one at a time: C.UTF-8, UTF-8
two threads with a cache: C, ANSI_X3.4-1968
T
echo "as described"
