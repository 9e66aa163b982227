"""Sends the name of the public service to the test's port, and checks that the package is as it
was published."""

import base64
import hashlib
import os
import socket
from importlib import metadata

HOST = "api.lockable.dev"
PORT = int(os.environ["TEST_PORT"])

resolve = socket.getaddrinfo


def getaddrinfo(host, port, *args, **kwargs):
    if host == HOST:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", PORT))]
    return resolve(host, port, *args, **kwargs)


socket.getaddrinfo = getaddrinfo

checked = 0
for file in metadata.distribution("lockable.dev").files:
    if file.hash is not None:
        digest = hashlib.new(file.hash.mode, file.read_binary()).digest()
        assert (
            base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value
        ), f"{file} was changed"
        checked += 1
assert checked >= 5, "the package lists its files"
