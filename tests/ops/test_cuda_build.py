"""What `wf doctor` says of the CUDA kernels agrees with what was built."""

from __future__ import annotations

import torch

from wrinklefree import _engine, _native


def test_status_says_whether_cuda_kernels_were_built_and_loaded() -> None:
    status = _native.status()["CUDA kernels"]
    if not _engine.build_info()["cuda"]:
        assert "was not built" in status
    elif torch.version.cuda is None:
        assert status == "built, not loaded: this torch has no CUDA"
    else:
        assert status == "loaded"
