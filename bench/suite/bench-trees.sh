# Commit, the cache, sampling, acceptance, trees: what compiles longest comes last.
exec bash bench/suite/measure.sh bench-trees commit cache sampling accept tree
