"""Inference backends: one file per runtime behind one small base class."""
