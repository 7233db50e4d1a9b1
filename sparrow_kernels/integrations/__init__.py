"""Other decoders' calls over our ops: their names, their buffers, their order of arguments."""
