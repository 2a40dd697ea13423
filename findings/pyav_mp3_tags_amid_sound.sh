#!/usr/bin/env bash
# PyAV and MP3 files that were joined, as pieces of synthesised speech often are: the tag of the second file is a packet of sound.
#
# Seen with av 18.0.0 (libavcodec 62.28, Linux x86-64 wheel): two MP3 files of one second, each with the ID3 tag that FFmpeg writes, one after
# the other.  `demux` gives the second tag as a packet with the duration of a frame of sound; decoding it raises InvalidDataError, which looks
# like damage, and all that follows is dated a frame (26 ms) later than it lies, which looks like lost sound.  All sound is read.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.0.0" "numpy<2.5" 2> /dev/null
cat > "$work/tags.py" <<'P'
import io, av, numpy as np
print("av", av.__version__)
one = io.BytesIO()
with av.open(one, "w", format="mp3") as output:
    stream = output.add_stream("libmp3lame", rate=44100, layout="mono")
    frame = av.AudioFrame.from_ndarray((0.3 * np.sin(0.05 * np.arange(44100))).astype(np.float32)[None], "fltp", "mono")
    frame.sample_rate, frame.pts = 44100, 0
    stream.codec_context.open()
    fit = av.AudioResampler(stream.codec_context.format.name, "mono", 44100, stream.codec_context.frame_size)
    for part in [*fit.resample(frame), *fit.resample(None)]:
        output.mux(stream.encode(part))
    output.mux(stream.encode(None))
with av.open(io.BytesIO(2 * one.getvalue())) as source:
    read, late = 0, None
    for packet in source.demux(audio=0):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            print("a packet that begins with", bytes(packet)[:3], "lasts", round(1000 * packet.duration * packet.time_base), "ms: invalid data")
            continue
        for frame in frames:
            late = round(1000 * (frame.pts * frame.time_base - read / 44100)) if late is None or read > 1.5 * 44100 else late
            if read == 0:
                first = late
            read += frame.samples
print("seconds read", round(read / 44100, 1), "; the last frame is dated", late - first, "ms late")
P
"$work/venv/bin/python" "$work/tags.py" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'T'
av 18.0.0
a packet that begins with b'ID3' lasts 26 ms: invalid data
seconds read 2.1 ; the last frame is dated 26 ms late
T
echo "as described"
