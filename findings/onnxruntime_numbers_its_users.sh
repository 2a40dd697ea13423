#!/usr/bin/env bash
# ONNX Runtime: to import it is enough to be given a number, in a file of the home folder, beside a database of events for its maker.
#
# Seen with onnxruntime 1.32.0 (Linux x86-64 wheel): `import onnxruntime` writes ~/.cache/Microsoft/DeveloperTools/.onnxruntime/deviceid
# and onnxruntime.db.  `disable_telemetry_events()` can only be called after that.  With ORT_DISABLE_TELEMETRY=1 in the environment, also
# if the program itself sets it before the import, neither is written.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "onnxruntime==1.32.0" 2> /dev/null
written() {  # the names of what the program leaves in an empty home folder
  rm -rf "$work/home"; mkdir "$work/home"
  env -u XDG_CACHE_HOME -u ORT_DISABLE_TELEMETRY HOME="$work/home" "$work/venv/bin/python" -c "$1"
  (cd "$work/home" && find . -type f | sort | tr '\n' ' ')
}
folder=./.cache/Microsoft/DeveloperTools/.onnxruntime
alone=$(written "import onnxruntime")
too_late=$(written "import onnxruntime; onnxruntime.disable_telemetry_events()")
told=$(written "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import onnxruntime")
echo "imported: $alone"; echo "then disabled: $too_late"; echo "told before: $told"
[ "$alone" = "$folder/deviceid $folder/onnxruntime.db " ] && [ "$too_late" = "$alone" ] && [ -z "$told" ]
echo "as described"
