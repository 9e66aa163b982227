"""What the package's documentation promises, and what its low-level calls answer."""

import os

import redirect  # noqa: F401
import requests
from lockable import CouldNotAcquireLockError, Lock, client

token = os.environ["LOCKABLE_AUTH_TOKEN"]

with Lock("documented"):
    # Held, for the same account as well: a lock knows leases, not people.
    assert client.try_acquire("documented", auth_token=token) is False
    try:
        Lock("documented", blocking=False).acquire()
        raise AssertionError("it was held")
    except CouldNotAcquireLockError:
        pass
    assert client.try_heartbeat("documented", auth_token=token) is True

assert client.try_heartbeat("documented", auth_token=token) is False
assert client.try_acquire("documented", auth_token=token) is True
client.try_release("documented", auth_token=token)

lock = Lock("blocking", blocking=False)
lock.acquire()
lock.release()
lock.acquire()
lock.release()

for bad in ("3f0a2c9e-0000-4000-8000-000000000000", "not a token", None):
    try:
        client.try_acquire("documented", auth_token=bad)
        raise AssertionError(f"{bad} was accepted")
    except requests.HTTPError as error:
        assert error.response.status_code == 401, error
