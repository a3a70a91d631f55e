"""The error tree. Every error a user can cause is a DougongError: one sentence, no traceback.

DougongError
├── ConfigError        a model or training configuration is unknown, contradictory or incomplete
├── CheckpointError    a file is missing, malformed, or does not hold what the config says
├── InputError         a request, prompt, option or token sequence cannot be served as asked
├── ShapeError         a tensor handed to a public function has the wrong rank, size or dtype
├── BackendError       an operator or device asked for is not available here
└── TrainingError      a training run cannot start or go on (its last checkpoint stays intact)

A message names what was wrong, where, what was expected, and the way out.
"""


class DougongError(Exception):
    """Base of every error that Dougong raises on purpose."""


class ConfigError(DougongError):
    """A configuration is unknown, contradictory or incomplete."""


class CheckpointError(DougongError):
    """A checkpoint file is missing, malformed, or disagrees with its configuration."""


class InputError(DougongError):
    """A request, prompt, option or token sequence cannot be served as asked."""


class ShapeError(DougongError):
    """A tensor handed to a public function has the wrong rank, size or dtype."""


class BackendError(DougongError):
    """An operator or a device that was asked for is not available on this machine."""


class TrainingError(DougongError):
    """A training run cannot start or go on; its last checkpoint is intact."""
