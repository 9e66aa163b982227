"""Many threads on few locks: contend.py FOLDER LOCKS THREADS ROUNDS. Says in JSON what happened."""

import datetime
import json
import os
import random
import sys
import threading
import time

import redirect  # noqa: F401
from lockable import Lock

folder, locks, threads, rounds = sys.argv[1], *map(int, sys.argv[2:])
outcome = {"entered": 0, "met": 0}
tally = threading.Lock()


def critical_section(lock):
    """Reads, dawdles, writes: loses counts, and sees the other, if a thread of any process is
    in here at the same time."""
    inside = os.path.join(folder, f"{lock}.inside")
    try:
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        with tally:
            outcome["met"] += 1
    path = os.path.join(folder, str(lock))
    count = int(open(path).read()) if os.path.exists(path) else 0
    time.sleep(random.uniform(0, 0.01))
    with open(path, "w") as file:
        file.write(str(count + 1))
    try:
        os.remove(inside)
    except FileNotFoundError:
        pass
    with tally:
        outcome["entered"] += 1


def work():
    for _ in range(rounds):
        lock = random.randrange(locks)
        # Its heartbeat thread ends with an AttributeError after the first heartbeat (a bug of
        # 0.1.2); the lease outlasts this.
        with Lock(f"contended-{lock}", acquire_sleep_period=datetime.timedelta(milliseconds=20)):
            critical_section(lock)


workers = [threading.Thread(target=work) for _ in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(json.dumps(outcome))
