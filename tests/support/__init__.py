"""What several tests share: fakes over real HTTP, short ways to write cases, runs and notebooks, and one wait."""

import gc
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before torch is imported: several test processes share the cores
gc.set_threshold(50_000, 20, 50)  # importing TRL takes a sixth of its time in the collector else
