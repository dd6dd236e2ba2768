"""The service beside others that would serve the same model: see `tests.bench.peers.__main__`."""
