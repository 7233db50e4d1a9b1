"""Other decoders: their calls over our ops, and their data as our ops take it and back."""
