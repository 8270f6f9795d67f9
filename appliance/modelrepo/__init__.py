"""Model packages on disk: found, checked, their weights fetched and converted."""
