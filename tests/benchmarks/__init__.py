"""Measurements of this machine, run by ``scripts/bench``. Speed is measured here, never asserted in a test."""
