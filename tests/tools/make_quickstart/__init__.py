"""The generator of the embedded example, `configs/quickstart`."""
