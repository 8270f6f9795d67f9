"""Whether journal and spool say the same, and what to do where they do not."""
