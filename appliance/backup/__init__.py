"""Backups of the state folder while everything runs, and their way back."""
