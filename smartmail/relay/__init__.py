"""The SMTP policy proxy: asyncio Protocols around `core.smtp`."""
