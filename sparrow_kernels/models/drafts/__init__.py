"""Drafts of others: reading their files, telling what they are, trying whether that is right."""
