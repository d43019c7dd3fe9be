"""Errors a user can act on: one plain sentence that names the file, what was found and what to do."""

from __future__ import annotations


class VoxcaliperError(Exception):
    """A problem the user can mend. Its message is the whole report; the command line prints it and exits with 1."""


class InputError(VoxcaliperError):
    """A volume, option or configuration that cannot be used as it is."""


class StorageError(VoxcaliperError):
    """A store that cannot be read or written: missing or corrupt chunk, full disk, no permission."""


class DamagedError(StorageError):
    """A file that the run itself made, that is not what was written, and that can be made again."""


class PlanError(VoxcaliperError):
    """Work that does not fit the workers; the message spells out the sum."""


class DeviceMemoryError(PlanError):
    """A block that does not fit a card although the plan had it fit, because others use the card too."""


class RunError(VoxcaliperError):
    """A run folder that cannot be started, resumed or opened."""


class LostWorkersError(RunError):
    """A block whose workers die again and again, most likely for want of memory."""
