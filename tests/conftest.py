"""Shared fixtures. Real data lies beside the project in ../shared; without it those tests skip and say so."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several workers: one thread each, and so for all that it starts
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest
import torch

# the numbers that tests hold are a CPU's, in fp32 or fp64; "auto" would take a GPU, in bf16. So there is none, for this
# process, which has not asked for one yet, and for all that it starts
os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; MRG_REQUIRE_SHARED=1 turns its absence from a skip into a failure."""
    if not SHARED.is_dir():
        if os.environ.get("MRG_REQUIRE_SHARED") == "1":
            pytest.fail(f"MRG_REQUIRE_SHARED=1 but {SHARED} is not there")
        pytest.skip(f"needs the real data in {SHARED}, which is not there")
    return SHARED
