#!/usr/bin/env bash
# PyAV and x264: an encoder that nobody has set up cuts every picture into as many slices as it has threads, so a file depends on how
# many cores the machine has, and predicts nothing across slices.
#
# Seen with av 18.0.0 (Linux x86-64 wheel, FFmpeg 8).  A codec context of PyAV asks for threads of the kind "SLICE", also where it
# encodes; FFmpeg's libx264 takes that for x264's sliced threads, and a `thread_count` of 0 for as many as x264 finds cores for.  With
# `thread_type = "FRAME"` a picture is one slice; here the file is smaller.  Who compares files from machines with different numbers of
# cores sets `thread_count`.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.0.0" "numpy<2.5" 2> /dev/null
cat > "$work/encode.py" <<'P'
import io
from fractions import Fraction
from importlib.metadata import version

import av
import numpy as np

print("av", version("av"))
pattern = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8).repeat(20, 0).repeat(20, 1)


def encode(threads, kind=None):
    """What the context asks for, slices of the last picture, and the bytes of all."""
    with av.open(io.BytesIO(), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        context = stream.codec_context
        context.thread_count = threads
        if kind:
            context.thread_type = kind
        packets = []
        for index in range(12):
            frame = av.VideoFrame.from_ndarray(np.roll(pattern, 3 * index, 1), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        data = [bytes(packet) for packet in packets]
        # Units of an H.264 byte stream follow 00 00 01; of the types 1 and 5 are slices.
        units = data[-1].split(b"\0\0\1")[1:]
        return context.thread_type.name, sum(unit[0] & 31 in (1, 5) for unit in units), sum(map(len, data))


kinds = {(threads, kind): encode(threads, kind) for threads in (1, 2, 4) for kind in (None, "FRAME")}
for (threads, kind), (asked, slices, _) in kinds.items():
    print(f"{threads} threads, {kind or 'nothing set'}: {asked}, slices in a picture: {slices}")
print("four threads, smaller with FRAME:", kinds[4, "FRAME"][2] < kinds[4, None][2])
P
"$work/venv/bin/python" "$work/encode.py" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'T'
av 18.0.0
1 threads, nothing set: SLICE, slices in a picture: 1
1 threads, FRAME: FRAME, slices in a picture: 1
2 threads, nothing set: SLICE, slices in a picture: 2
2 threads, FRAME: FRAME, slices in a picture: 1
4 threads, nothing set: SLICE, slices in a picture: 4
4 threads, FRAME: FRAME, slices in a picture: 1
four threads, smaller with FRAME: True
T
echo "as described"
