"""Recognize errors that mean a lack of memory."""

from __future__ import annotations

import torch

from preprocess.settings import one_line

# torch has no exception type for a lack of CPU memory. It raises a RuntimeError with one of the first three texts: for
# tensors (c10/core/impl/alloc_cpu.cpp), for mapped files (aten/src/ATen/MapAllocator.cpp), and for other C++ objects.
# The last is the text of NumPy's MemoryError, which torch turns into a RuntimeError if a worker process raises it.
_CPU_MESSAGES = ("DefaultCPUAllocator: ", "unable to mmap ", "std::bad_alloc", "Unable to allocate ")
_BATCH_KEYS = "train_input.micro_batch_size (in evaluation: eval_input.micro_batch_size, if it is set)"


def describe_memory_error(error: Exception) -> str | None:
    """Return a sentence that names the keys to lower if an error means a lack of GPU or CPU memory, else None."""
    message = str(error).strip()
    if isinstance(error, torch.OutOfMemoryError):
        return f"{one_line(message)[:200].rstrip('.')}; lower {_BATCH_KEYS}"
    # The message of a worker process is the last line, after its traceback; torch may also append a C++ backtrace.
    start = max(message.rfind(text) for text in _CPU_MESSAGES)
    if start >= 0:
        detail = message[start:].splitlines()[0]
    elif isinstance(error, MemoryError):
        detail = message.splitlines()[-1] if message else "MemoryError"
    else:
        return None
    return f"CPU memory is full ({detail[:200]}); lower {_BATCH_KEYS} or num_workers"
