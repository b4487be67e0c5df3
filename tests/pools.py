"""A child that answers a job with the thread pools that it has after it: the hook for tests of what a child may use.

    python -m tests.pools

Run as the child (workers.runners.local.CHILD).
"""

import os
import sys

CHILD = (sys.executable, "-m", "tests.pools")


def pools() -> dict:
    """The threads of BLAS and OpenMP by library, of Arrow (CPU, IO), and of TensorFlow (of one operation, between them).

    TensorFlow says 0 where its environment decides.
    """
    import pyarrow as pa
    from threadpoolctl import threadpool_info

    found = {"blas": {info["filepath"]: info["num_threads"] for info in threadpool_info()}}
    found |= {"arrow": [pa.cpu_count(), pa.io_thread_count()], "tensorflow": None}
    if "tensorflow" in sys.modules:
        threading = sys.modules["tensorflow"].config.threading
        own = threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads()
        names = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"
        found["tensorflow"] = [count or int(os.environ[name]) for count, name in zip(own, names, strict=True)]
    return found


def main() -> None:
    from workers.children import child as worker

    perform = worker._perform

    def told(job: dict, report) -> dict:
        perform(job, report)
        return pools()

    worker._perform = told
    worker.main()


if __name__ == "__main__":
    main()
