"""medpeft: a reproducible study of parameter-efficient fine-tuning for medical images.

The flow is one way: data -> backbone -> method -> training -> record -> report. Importing this package needs no torch.
"""

__version__ = '0.1.0'
