"""medpeft: a reproducible study of parameter-efficient fine-tuning for medical images.

The flow is one way: data -> backbone -> method -> training -> record -> report. Importing this package needs no torch.
"""

import os

# Read by OpenMP when torch is imported: threads that wait sleep, and do not take cores from whatever else runs here
# (measured in study/processes.py). What the user has set stays.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

__version__ = '0.1.0'
