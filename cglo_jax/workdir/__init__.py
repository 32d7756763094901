"""What lies in a work directory, read back as typed values."""
