# The draft's attention, and the window of its training.
exec bash bench/suite/measure.sh bench-draft draft window
