"""What stops a source before anything of it is stored."""

from smartmail.core.backup_record import Reason


class SourceError(Exception):
    """A job's source is not what it must be. what: where and what is wrong; remedy: what to do, "" if not known."""

    def __init__(self, reason: Reason, what: str, remedy: str = "") -> None:
        self.reason = reason
        self.what = what
        self.remedy = remedy
        super().__init__(what)
