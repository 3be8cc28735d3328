"""Where the results of compilation inside an engine's start are kept."""

import os
from pathlib import Path


def keep_compiled_in(directory: str | None) -> None:
    """Let vLLM, which is not yet imported, and torch keep compiled code below `directory`.

    Replicas may share it: torch and vLLM write each artifact under a name of its own and rename
    it. vLLM's index of a compiled graph alone, `vllm_compile_cache.py`, is written in place: a
    replica that reads it in that instant fails its start, and Serve starts it again.
    """
    if directory is None:
        return
    root = Path(directory).expanduser()
    os.environ["VLLM_CACHE_ROOT"] = str(root)
    # Where vLLM does not set it itself it is in /tmp, which a container loses.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(root / "inductor")
