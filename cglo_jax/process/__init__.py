"""What a program sets for its process: streams, signals, numerics, devices."""
