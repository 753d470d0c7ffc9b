"""The stages of a run: each reads and writes only through the run folder, and calls the maths around it."""
