"""Others who compute the same: each takes a case's own arguments and says when it is not here."""
