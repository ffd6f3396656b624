"""The ASGI application: agents hand in what they saw."""
