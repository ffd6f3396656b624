"""Crypto-erase: a repository whose keys are gone is noise. For a customer's own repository; nothing brings it back."""

import asyncio
from contextlib import suppress
from pathlib import Path

import httpx2

from smartmail.backup.probe import Unreadable, client_of, read_location
from smartmail.backup.vault import BRIEF, Vault
from smartmail.core import restic as ask
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import End, Reason, reason_of
from smartmail.core.restic_json import Unreadable as NotJson
from smartmail.core.restic_location import Backend, Location
from smartmail.core.restic_output import parse_keys
from smartmail.core.restic_version import Outcome


async def destroy_keys(vault: Vault) -> End:
    """Delete every key of the repository, and prove that its password opens it no more. Raises VaultError, ResticError
    when it cannot be opened to begin with."""
    listed = parse_keys((await vault.must(ask.key_list(vault.known, vault.at), BRIEF)).stdout)
    if isinstance(listed, NotJson):
        return End(RunState.FAILED, Reason.FAILED, words=f"its keys cannot be read: {listed}")
    try:
        location = await read_location(vault.plan)
    except Unreadable as error:
        return End(RunState.FAILED, Reason.FAILED, words=str(error))
    if location.backend is Backend.LOCAL:
        await asyncio.to_thread(_remove_local, Path(location.path) / "keys")
    elif location.backend is Backend.REST and location.url:
        refused = await _remove_by_rest(vault, location)
        if refused:
            return End(RunState.FAILED, Reason.REFUSED, {"keys": len(listed)}, refused)
    else:
        words = f"{vault.name}: delete all that is in its folder keys/ by the means of its storage, versions included"
        return End(RunState.FAILED, Reason.UNSUPPORTED, {"keys": len(listed)}, words)
    run = await vault.run(ask.cat_config(vault.known, vault.at), BRIEF)
    facts = {"keys": len(listed)}
    if run.outcome is Outcome.WRONG_PASSWORD:
        return End(RunState.OK, facts=facts, words=f"{vault.name} can be opened by nobody: {len(listed)} keys are gone")
    words = f"{vault.name}: it should open no more, and {'still does' if run.ok else run.reason}"
    return End(RunState.FAILED, Reason.FAILED if run.ok else reason_of(run.outcome), facts, words)


def _remove_local(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):
            file.unlink()


async def _remove_by_rest(vault: Vault, location: Location) -> str:
    """Why it could not be done; "" if it was."""
    try:
        return await _removed(vault, location)
    except (httpx2.HTTPError, Unreadable, ValueError) as error:
        return f"{vault.name}: its server cannot be asked: {type(error).__name__}"


async def _removed(vault: Vault, location: Location) -> str:
    async with client_of(vault.plan, 60.0, location) as client:
        answer = await client.get(f"{location.url}keys/", headers={"Accept": "application/vnd.x.restic.rest.v2"})
        if answer.status_code != 200:
            return f"{vault.name}: its keys are not listed: HTTP {answer.status_code}"
        for one in answer.json():
            name = one["name"] if isinstance(one, dict) else one
            gone = await client.delete(f"{location.url}keys/{name}")
            if gone.status_code not in (200, 204):
                return (
                    f"{vault.name}: its server refuses to delete a key (HTTP {gone.status_code}): do it at the server"
                )
    return ""
