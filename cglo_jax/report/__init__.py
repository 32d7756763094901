"""Results -> verdict, page and model cards."""
