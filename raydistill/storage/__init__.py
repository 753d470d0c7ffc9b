"""Storage: files that are whole or absent, the run folder, and its mirror in an object store."""
