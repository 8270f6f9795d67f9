"""The spool: files on disk that must survive ``kill -9`` and power loss."""
