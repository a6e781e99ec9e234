"""Engines that run the tasks of a plan: processes on this machine, or the workers of a Dask cluster."""
