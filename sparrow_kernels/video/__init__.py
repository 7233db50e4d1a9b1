"""Any clip into frames, by its own timestamps."""
