"""Every error that cff-edge raises on purpose.

CffError                      the run failed                            exit code 1
├── UsageError                the call itself is wrong                  exit code 2
├── MissingDependencyError    an optional package is not installed
├── ImageError                an image cannot be read or used
├── DatasetError              images, masks or folders do not fit together
├── BundleError               a bundle is damaged or not a bundle
├── ProfileError              a profile is damaged or not a profile
│   └── ProfileMismatchError  a profile belongs to another bundle
├── CheckpointError           a training run's folder is damaged or does not fit
├── BackendError              an inference backend cannot run this
├── ParityError               exported and reference results differ too much
└── StorageError              a file could not be written

Wording: what must hold, what came, the next step.
"""


class CffError(Exception):
    """Base of all errors raised on purpose; a command line prints it without traceback."""

    exit_code = 1


class UsageError(CffError):
    """A wrong argument, option or configuration value."""

    exit_code = 2


class MissingDependencyError(CffError):
    """An optional package is not installed; the message names the extra that brings it."""


class ImageError(CffError):
    """An image file or array that cannot be read or used."""


class DatasetError(CffError):
    """A data set whose folders, images and masks do not fit together."""


class BundleError(CffError):
    """A bundle that is damaged, incomplete or of another schema."""


class ProfileError(CffError):
    """A profile that is damaged, incomplete or of another schema."""


class ProfileMismatchError(ProfileError):
    """A profile that was enrolled with another bundle."""


class CheckpointError(CffError):
    """A training run's folder that is damaged or does not fit its backbone."""


class BackendError(CffError):
    """An inference backend that cannot run the bundle or gives no usable answer."""


class ParityError(CffError):
    """Exported results that leave the parity limits."""


class StorageError(CffError):
    """A file that could not be written, such as on a full disk, or a state that cannot be read."""
