# Tree attention for batches of requests, and as engines keep caches: in pages, with a bias a key.
exec bash bench/suite/measure.sh bench-batches batches pages
