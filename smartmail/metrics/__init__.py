"""Every Prometheus metric, declared once, with help and unit. No address, id or path is ever a label.

Labels come from closed lists (verdict, reason, stage) or from the configuration (listener, limit, check, domain). The
loop counts in plain integers, because it counts some twenty times for each mail; they become Prometheus's when somebody
asks.

relay.py    the relay's
backup.py   the backup's
monitor.py  the collector's and an agent's
parts.py    what they are made of
"""

from smartmail.metrics.backup import BackupMetrics
from smartmail.metrics.monitor import ROUND_TRIP_STAGES, AgentMetrics, MonitorMetrics
from smartmail.metrics.relay import STAGES, RelayMetrics

__all__ = ["ROUND_TRIP_STAGES", "STAGES", "AgentMetrics", "BackupMetrics", "MonitorMetrics", "RelayMetrics"]
