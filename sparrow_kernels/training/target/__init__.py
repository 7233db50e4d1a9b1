"""Training of the small target from nothing, on clips the package draws itself."""
