"""The command line: one file per command, each parses, calls the library, prints and says by its exit code how it went.

0 fine · 1 a check did not hold · 2 bad usage or input · 3 valid model that cannot be explained so · 4 a defect of ours
"""

from .application import main

__all__ = ["main"]
