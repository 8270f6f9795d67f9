"""What only a real GPU proves; skipped with the reason where there is none."""
