"""The paper, as pure functions: Algorithm 1, codes, losses, sampling."""
