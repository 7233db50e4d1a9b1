"""Training of the embedded target and of drafts."""
