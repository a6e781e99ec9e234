"""Run tasks on an existing Dask cluster, or on a local cluster started for the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

from hdf5_writer.config import SetupConfig
from hdf5_writer.engines.local import without_callers_main
from preprocess.config import ConfigError

_SECONDS_TO_CONNECT = 30


@contextlib.contextmanager
def dask_executors(setup: SetupConfig) -> Iterator[tuple[Callable[[int], Executor], int]]:
    """Connect to the cluster; yield a factory of executors and the number of tasks that can run at the same time.

    Raises:
        ConfigError: Dask is not installed, or no scheduler or worker answers at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ConfigError(
            "setup.engine is dask, but Dask is not installed; run `pip install 'llava-hdf5[dask]'`"
        ) from None
    address = setup.dask.scheduler_address
    with contextlib.ExitStack() as stack:
        if address is None:
            # One thread per worker, since tasks mostly hold the interpreter lock.
            with without_callers_main():
                cluster = LocalCluster(n_workers=setup.processes, threads_per_worker=1, dashboard_address=None)
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster))
        else:
            try:
                client = stack.enter_context(Client(address, timeout=_SECONDS_TO_CONNECT))
            except (OSError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"setup.dask.scheduler_address {address}: no Dask scheduler answers ({type(error).__name__}); "
                    "start one with `dask scheduler`, or remove the key to use a cluster on this machine"
                ) from None
        try:
            client.wait_for_workers(1, timeout=_SECONDS_TO_CONNECT)
        except TimeoutError:
            raise ConfigError(
                f"setup.dask.scheduler_address {address}: the scheduler has no worker; start some with `dask worker`"
            ) from None
        threads = sum(client.nthreads().values())
        yield (lambda _: client.get_executor(pure=False)), threads
