#!/usr/bin/env bash
# OpenVINO: a program that calls `convert_model` has its user numbered and its calls counted, for it depends on openvino-telemetry and asks
# nobody.
#
# Seen with openvino 2026.4.1 and the openvino-telemetry 2025.2.0 that it requires (Linux x86-64): converting a model writes
# ~/intel/openvino_ga_cid, a number for Google Analytics, and ~/intel/stats.  Opting out is a command of its own for each user
# (`opt_in_out --opt_out`).  Where the module openvino_telemetry cannot be imported OpenVINO has a stand-in that does nothing: a program
# may put None in sys.modules in its place first.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  "openvino==2026.4.1" "openvino-telemetry==2025.2.0" "onnx==1.23.2" "numpy<2.5" 2> /dev/null
cat > "$work/convert.py" <<'P'
import sys

if sys.argv[1] == "without":
    sys.modules["openvino_telemetry"] = None
import onnx
import openvino
from onnx import TensorProto, helper

graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", *(
    [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in "xy"))
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), sys.argv[2])
print(len(openvino.convert_model(sys.argv[2]).get_ops()), file=sys.stderr)
P
written() {  # the names of what a conversion leaves in an empty home folder
  rm -rf "$work/home"; mkdir "$work/home"
  HOME="$work/home" "$work/venv/bin/python" "$work/convert.py" "$1" "$work/relu.onnx" 2> "$work/operations"
  (cd "$work/home" && find . -type f | sort | tr '\n' ' ')
}
with=$(written with)
[ "$(tail -n 1 "$work/operations")" = 3 ]
without=$(written without)
[ "$(tail -n 1 "$work/operations")" = 3 ]
echo "with the module: $with"; echo "without: $without"
[ "$with" = "./intel/openvino_ga_cid ./intel/stats " ] && [ -z "$without" ]
echo "as described"
