"""What a decoder is worth: comparisons, near ties, evaluation of drafts."""
