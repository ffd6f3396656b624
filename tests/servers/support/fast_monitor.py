"""A real collector on a fast clock: `fast_monitor.py FILE`, a JSON with `config` and `beat`. It runs until SIGTERM, and
may be killed and started again."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fast_agent import Beat, FastTime

from smartmail import events
from smartmail.cli.collecting import Monitor
from smartmail.config import Config


async def main(value: dict[str, Any]) -> None:
    """Serve."""
    beat = Beat(**value["beat"])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Monitor(Config.model_validate(value["config"]), now_ms=FastTime(beat).wall_ms, pace=beat.pace):
        await stop.wait()


if __name__ == "__main__":
    log = events.configure()
    try:
        asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
    finally:
        log.close()
