"""`genstatus wait`: waits for one file in a terminal or a script, and downloads it."""
