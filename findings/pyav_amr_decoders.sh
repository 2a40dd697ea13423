#!/usr/bin/env bash
# PyAV's wheels and AMR: what is left of a phone's voice memo depends on the wheel.
#
# Seen with av 18.1.0 and av 19.0.2 (Linux x86-64 wheels, Python 3.12): those of 18.1.0 carry libopencore_amrnb beside FFmpeg's own decoder
# "amrnb"; those of 19.0.2 have only FFmpeg's own, which raises on frames of comfort noise (DTX, written in pauses).  A memo of half a second of
# noise and two and a half seconds of near silence, written with DTX, is 3 s long for libopencore_amrnb; of what FFmpeg's own decodes, 0.7 s.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}  # 3.12 or newer: av 19 has no wheels for older ones
cat > "$work/write.py" <<'P'
import sys, av, numpy as np
sound = np.random.default_rng(0).normal(0, 3000, 24000); sound[4000:] *= 0.0003
with av.open(sys.argv[1], "w", format="amr") as file:
    stream = file.add_stream("libopencore_amrnb", rate=8000, options={"dtx": "1"}); stream.layout = "mono"; stream.bit_rate = 12200
    frame = av.AudioFrame.from_ndarray(sound.astype(np.int16)[None], "s16", "mono"); frame.sample_rate = 8000
    for packet in [*stream.encode(frame), *stream.encode(None)]:
        file.mux(packet)
P
cat > "$work/read.py" <<'P'
import sys, av
print("av", av.__version__)
for name in ("libopencore_amrnb", "amrnb"):
    if name not in av.codecs_available:
        print(name, "is not there"); continue
    with av.open(sys.argv[1]) as file:
        decoder, samples, refused, packets = av.CodecContext.create(name, "r"), 0, 0, 0
        decoder.sample_rate, decoder.layout = 8000, "mono"
        for packet in file.demux(audio=0):
            if packet.size == 0:
                continue
            packets += 1
            try:
                samples += sum(frame.samples for frame in decoder.decode(av.Packet(bytes(packet))))
            except av.error.FFmpegError as error:
                refused += 1; kind = type(error).__name__
    print(name, f"{samples / 8000:.1f} s", f"more than half refused: {kind}" if 2 * refused > packets else "all decoded" if not refused else refused)
P
for version in 18.1.0 19.0.2; do
  "$python" -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check "av==$version" numpy 2> /dev/null
done
"$work/18.1.0/bin/python" "$work/write.py" "$work/memo.amr"
for version in 18.1.0 19.0.2; do "$work/$version/bin/python" "$work/read.py" "$work/memo.amr" 2> /dev/null; done | tee "$work/seen"
diff "$work/seen" - <<'T'
av 18.1.0
libopencore_amrnb 3.0 s all decoded
amrnb 0.7 s more than half refused: InvalidDataError
av 19.0.2
libopencore_amrnb is not there
amrnb 0.7 s more than half refused: InvalidDataError
T
echo "as described"
