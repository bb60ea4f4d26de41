"""Found by a Python that has this folder in its path: a kernel without writes that sync."""

import os

del os.RWF_DSYNC
