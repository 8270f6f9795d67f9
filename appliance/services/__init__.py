"""Composition roots: one module per role, and the supervisor that runs them all."""
