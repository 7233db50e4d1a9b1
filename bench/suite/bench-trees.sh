# Trees, acceptance, sampling, commit and the cache.
exec bash bench/suite/measure.sh bench-trees tree accept sampling commit cache
