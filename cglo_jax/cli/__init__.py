"""Arguments -> `Command`; no JAX at import."""
