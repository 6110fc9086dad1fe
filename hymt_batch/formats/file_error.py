"""The error of a file that does not fit the settings, where the fix would change how other files are read, too."""

from __future__ import annotations

from hymt_batch.errors import ConfigError


class FileError(ConfigError):
    """A file does not fit the settings.

    Attributes:
        fix_among_others: The fix if the file is one of several, which leaves the others alone; "" if `fix` does.
    """

    fix_among_others = ""

    def among_others(self, fix: str) -> FileError:
        """Set `fix_among_others`, and return the error."""
        self.fix_among_others = fix
        return self
