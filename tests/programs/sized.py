"""An array of a hundred megabytes, and then the exit code that its argument says (or an exception, if it is a word)."""

import sys

import numpy as np

array = np.ones(12_500_000)
if not sys.argv[1].isdigit():
    raise ValueError(sys.argv[1])
sys.exit(int(sys.argv[1]))
