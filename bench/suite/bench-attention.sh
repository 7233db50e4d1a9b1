# Tree attention over prefixes, nodes and batches, with what goes with it.
exec bash bench/suite/measure.sh bench-attention attention
