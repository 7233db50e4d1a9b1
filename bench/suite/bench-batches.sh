# Tree attention for batches of requests.
exec bash bench/suite/measure.sh bench-batches batches
