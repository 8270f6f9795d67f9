"""The journal: what was promised, what is to be done, what became of it. SQLite, synced before a commit counts."""
