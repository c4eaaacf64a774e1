"""The log and the metrics, which every package may use."""
