"""What the benchmarks need from outside: Debian packages (as root) and Haraka from npm, else names of what
is missing."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NGINX_MAIL = Path("/usr/lib/nginx/modules/ngx_mail_module.so")
POLICY = Path("/usr/sbin/policy-rc.d")
PACKAGES: dict[str, tuple[str, ...]] = {
    "smtp-source": ("postfix",),
    "smtp-sink": ("postfix",),
    "postfix": ("postfix",),
    "dovecot": ("dovecot-core",),
    "doveadm": ("dovecot-core",),
    "haproxy": ("haproxy",),
    "nginx": ("nginx", "libnginx-mod-mail"),
    "node": ("nodejs",),
    "npm": ("npm",),
    "openssl": ("openssl",),
    "restic": ("restic",),
    "borg": ("borgbackup",),
    "strace": ("strace",),
}
# Newest that each Node can load; the overrides are versions at which npm's tree resolves as a whole.
HARAKA_BY_NODE = ((20, "3.3.4"), (18, "3.0.4"))
HARAKA_OVERRIDES = {"encoding-japanese": "2.2.0", "libqp": "2.1.1"}

Say = Callable[[str], None]


def which(program: str) -> str | None:
    """Path of a program, the sbin folders included."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    return shutil.which(program, path=path)


def missing(programs: tuple[str, ...]) -> list[str]:
    """Those of the programs that are not here, by name; nginx also needs its mail module."""
    absent = [program for program in programs if which(program) is None]
    if "nginx" in programs and "nginx" not in absent and not NGINX_MAIL.exists():
        absent.append("nginx")
    return absent


def install_packages(programs: tuple[str, ...], say: Say) -> list[str]:
    """Install Debian's packages for the absent ones when we are root. Returns what is still missing."""
    absent = missing(programs)
    packages = sorted({package for program in absent for package in PACKAGES[program]})
    if not packages or os.geteuid() != 0 or which("apt-get") is None:
        return absent
    say(f"installing {' '.join(packages)}")
    ours = not POLICY.exists()
    try:
        if ours:
            # Debian starts a server as it is installed; a benchmark must not open ports 25 and 80 on this
            # machine.
            POLICY.write_text("#!/bin/sh\nexit 101\n")
            POLICY.chmod(0o755)
        for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
            subprocess.run(
                ["apt-get", *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                timeout=300,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"apt-get: {error}")
    finally:
        if ours:
            POLICY.unlink(missing_ok=True)
    return missing(programs)


def node_major() -> int:
    """Major version of Node, 0 when there is none."""
    node = which("node")
    if node is None:
        return 0
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    return int(version.strip().lstrip("v").split(".")[0] or 0)


def haraka(cache: Path, say: Say) -> Path | None:
    """The Haraka package folder inside `cache`, installed from npm when it is not there yet; None when it
    cannot be."""
    version = next((wanted for major, wanted in HARAKA_BY_NODE if node_major() >= major), None)
    if version is None:
        return None
    home = cache / f"haraka-{version}"
    package = home / "node_modules" / "Haraka"
    if (package / "bin" / "haraka").exists():
        return package
    npm = which("npm")
    if npm is None:
        return None
    say(f"installing Haraka {version} from npm")
    home.mkdir(parents=True, exist_ok=True)
    manifest = {
        "name": "peer",
        "private": True,
        "dependencies": {"Haraka": version},
        "overrides": HARAKA_OVERRIDES,
    }
    (home / "package.json").write_text(json.dumps(manifest))
    flags = [
        "--omit=optional",
        "--omit=dev",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [npm, "install", *flags],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )
    return package if (package / "bin" / "haraka").exists() else None
