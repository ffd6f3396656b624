"""restic's key files made cheap to open: the same master key under the same password, but with the least of scrypt.

restic measures at `init` how much scrypt the machine bears, and spends that at every opening: half a second and more,
of which a test has dozens."""

import base64
import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from smartmail.backup.vault import Vault
from smartmail.core.restic_output import RepositoryConfig

CHEAP = {"N": 16, "r": 1, "p": 1}


def cheapen(repository: Path, password: str) -> None:
    """Put a cheap key file in place of the only one of a repository in a folder."""
    (file,) = (repository / "keys").iterdir()
    key = json.loads(file.read_bytes())
    sealed = base64.b64decode(key["data"])
    nonce, text, tag = sealed[:16], sealed[16:-16], sealed[-16:]
    old = _derived(key, password)
    assert _tag(old, nonce, text) == tag
    new = _derived(key | CHEAP, password)
    text = _ciphered(new, nonce, _ciphered(old, nonce, text))
    key |= CHEAP | {"data": base64.b64encode(nonce + text + _tag(new, nonce, text)).decode()}
    octets = json.dumps(key).encode()
    file.unlink()
    (file.parent / hashlib.sha256(octets).hexdigest()).write_bytes(octets)


def _derived(key: dict[str, object], password: str) -> bytes:
    """32 octets for AES-256, 16 and 16 for Poly1305-AES."""
    n, r, p = (int(str(key[name])) for name in "Nrp")
    salt = base64.b64decode(str(key["salt"]))
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=1 << 30, dklen=64)


def _ciphered(keys: bytes, nonce: bytes, text: bytes) -> bytes:
    """There and back."""
    cipher = Cipher(algorithms.AES(keys[:32]), modes.CTR(nonce)).encryptor()
    return cipher.update(text) + cipher.finalize()


def _tag(keys: bytes, nonce: bytes, text: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(keys[32:48]), modes.ECB()).encryptor()
    return Poly1305.generate_tag(keys[48:] + cipher.update(nonce) + cipher.finalize(), text)


async def make_cheap(vault: Vault, like: Vault | None = None) -> RepositoryConfig:
    """Make a repository, and one that is cheap to open where it is a folder of this machine."""
    made = await vault.init(like)
    location = Path(Path(vault.at.repository_file).read_text().strip())
    if location.is_dir():
        cheapen(location, Path(vault.at.password_file).read_text().strip())
    return made
