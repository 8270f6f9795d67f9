"""Frozen types and geometry, free of input and output: standard library, numpy, UIDs and codes."""
