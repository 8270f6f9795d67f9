"""The command ``appliance``."""
