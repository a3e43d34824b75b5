"""`python -m onnxlrp` is `onnxlrp`, for whoever has no scripts on the path."""

from __future__ import annotations

from onnxlrp_cli import main

if __name__ == "__main__":
    main(prog_name="python -m onnxlrp")
