"""What the store may refuse: each error says what, and what to do about it."""


class StoreError(Exception):
    """Base of the store's own errors. `hint` says what to do; "" where there is nothing to say."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class NotFound(StoreError):
    """No such customer, domain, account, alias or plan."""


class Conflict(StoreError):
    """It is there already, or it is not as the caller believed."""


class Invalid(StoreError):
    """The value itself cannot be stored."""


class StoreUnavailable(StoreError):
    """The database cannot be reached or used."""
