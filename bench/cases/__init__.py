"""The cases, one file an op family. Its `cases(selection)` are what a run of a size times."""
