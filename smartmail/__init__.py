"""Smart Mail: the operations toolkit of an e-mail hosting company.

core/     the rules: plain data in, plain data out, `now` is an argument
relay/    the SMTP policy proxy: asyncio Protocols around core/smtp.py
monitor/  the uptime monitor: probes, agents, the months they add up to
web/      the ASGI application that agents hand samples in to
report/   one model of a month, and what is made of it
intake/   aiosmtpd listeners that receive and keep
store/    the only SQL: schema, migrations, writer threads, samples, the account directory, the ledger
cli/      one module per noun
config/, metrics/, events/   what operators write, graph and grep for
"""

__version__ = "0.1.0"
