"""The embedded Video LLM pair: the world its clips show, its training recipe and its weights."""
