"""Plots of result files, one file a plot. Each returns a figure, or None where nothing fits it."""
