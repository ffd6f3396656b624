"""Smart Mail: the operations toolkit of an e-mail hosting company.

core/    the rules: plain data in, plain data out, `now` is an argument
relay/   the SMTP policy proxy: asyncio Protocols around core/smtp.py
intake/  aiosmtpd listeners that receive and keep
store/   the only SQL: schema, migrations, one writer thread, the account directory, the counters
cli/     one module per noun
config.py, metrics.py, events.py   what operators write, graph and grep for
"""

__version__ = "0.1.0"
