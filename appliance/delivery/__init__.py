"""Results out: one file per kind of destination."""
