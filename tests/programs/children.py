"""Starts children in the way that its argument names; each prints whether its arrays come from the freehold heap."""

import multiprocessing
import os
import subprocess
import sys


def report() -> None:
    import numpy as np

    from freehold.face import process_heap

    print(process_heap.owns(np.ones(1000).__array_interface__["data"][0]), flush=True)


def main(way: str) -> None:
    if way == "subprocess":
        subprocess.run([sys.executable, __file__, "self"], check=True)
    elif way == "os.fork":
        child = os.fork()
        if child == 0:
            report()
            return
        os.waitpid(child, 0)
    elif way == "loky":
        from joblib import Parallel, delayed

        Parallel(n_jobs=2)([delayed(report)()])
    elif way == "self":
        report()
    else:
        process = multiprocessing.get_context(way).Process(target=report)
        process.start()
        process.join()


if __name__ == "__main__":
    main(sys.argv[1])
