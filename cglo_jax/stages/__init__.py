"""One file per `--stage`: wires the packages it imports."""
