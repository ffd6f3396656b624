"""Listeners on aiosmtpd that receive and keep: the Maildir drop that is the embedded upstream."""
