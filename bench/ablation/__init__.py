"""What each part of the method is worth: drafts that differ in one thing, trained on the same."""
