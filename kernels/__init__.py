"""The fused operations `qin.*` in C++: a custom-operation library for ONNX Runtime, its builder and its wrapper."""
