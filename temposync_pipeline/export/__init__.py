"""The networks of inference as files of ONNX and OpenVINO, and pipelines that compute with them (`export.runtimes`)."""
