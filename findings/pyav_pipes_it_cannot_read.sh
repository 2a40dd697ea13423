#!/usr/bin/env bash
# PyAV and pipes: AIFF and Wave64 that FFmpeg writes where it cannot seek back, FFmpeg refuses to read; and what their headers do not cover it drops.
#
# Seen with av 18.0.0 (libavformat 62.12, Linux x86-64 wheel). The sizes stay 0 in such a stream: av.open of an AIFF or a Wave64 raises
# InvalidDataError; AU, CAF, WAV, FLAC, WavPack and TTA come back whole. Where the header speaks of a quarter of the samples, AIFF, Wave64, CAF and WAV
# end after it without an error; AU is read on.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "av==18.0.0" "numpy<2.5" 2> /dev/null
cat > "$work/pipes.py" <<'P'
import io, struct, av, numpy as np
print("av", av.__version__)

class Pipe(io.RawIOBase):
    def __init__(self): self.content = b""
    def writable(self): return True
    def write(self, data): self.content += bytes(data); return len(data)

def written(container, codec, file):
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((8000 * np.sin(np.arange(32_000) / 10)).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = 16_000
        stream.codec_context.open()
        fit = av.AudioResampler(stream.codec_context.format.name, "mono", 16_000, stream.codec_context.frame_size)
        for part in [*fit.resample(frame), *fit.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    return file.content if isinstance(file, Pipe) else file.getvalue()

def read(content):
    try:
        with av.open(io.BytesIO(content)) as source:
            return sum(frame.samples for frame in source.decode(audio=0))
    except av.error.InvalidDataError as error:
        return type(error).__name__

for container, codec in (("aiff", "pcm_s16be"), ("w64", "pcm_s16le"), ("au", "pcm_s16be"), ("caf", "pcm_s16le"), ("wav", "pcm_s16le"),
                         ("flac", "flac"), ("wv", "wavpack"), ("tta", "tta")):
    print(container, "from a pipe:", read(written(container, codec, Pipe())))
for container, codec, name, place, form, more in (("aiff", "pcm_s16be", b"SSND", 4, ">I", 8), ("w64", "pcm_s16le", b"data\xf3", 16, "<Q", 24),
                                                  ("caf", "pcm_s16le", b"data", 4, ">Q", 4), ("wav", "pcm_s16le", b"data", 4, "<I", 0),
                                                  ("au", "pcm_s16be", b".snd", 8, ">I", 0)):
    content = bytearray(written(container, codec, io.BytesIO()))
    struct.pack_into(form, content, content.index(name) + place, 16_000 + more)
    print(container, "announced 8000, read", read(bytes(content)))
P
"$work/venv/bin/python" "$work/pipes.py" 2> /dev/null | tee "$work/seen"
diff "$work/seen" - <<'T'
av 18.0.0
aiff from a pipe: InvalidDataError
w64 from a pipe: InvalidDataError
au from a pipe: 32000
caf from a pipe: 32000
wav from a pipe: 32000
flac from a pipe: 32000
wv from a pipe: 32000
tta from a pipe: 32000
aiff announced 8000, read 8000
w64 announced 8000, read 8000
caf announced 8000, read 8000
wav announced 8000, read 8000
au announced 8000, read 32000
T
echo "as described"
