"""The closed vocabulary of a model package's ``manifest.yaml``; the fields are described in ``engines/README.md``."""
