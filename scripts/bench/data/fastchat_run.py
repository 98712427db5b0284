"""Run one of FastChat's data programs with a number of worker processes; it has no option for that.

python fastchat_run.py WORKERS fastchat.data.clean_sharegpt --in raw.json --out clean.json
"""

import multiprocessing
import os
import runpy
import sys

if __name__ == "__main__":
    workers = int(sys.argv[1])
    os.cpu_count = lambda: workers
    multiprocessing.cpu_count = lambda: workers
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
