"""Records to token rows to batches: the data library that training shares with the probes."""
