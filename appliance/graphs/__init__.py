"""Derived graphs: an ONNX network rewritten as another that computes the same, faster."""
