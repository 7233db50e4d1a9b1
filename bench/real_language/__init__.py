"""A language model that no one here trained, a draft trained for it, and what the draft gains."""
