"""A harder world: parts are not numbered in the picture, things move, captions have styles."""
