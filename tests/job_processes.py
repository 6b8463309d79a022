"""What the other processes of the job tests do. Imports no torch, so that they start quickly."""

from trainers.jobs.store import Store


def open_and_count(database):
    store = Store(database)
    try:
        return sum(store.count().values())
    finally:
        store.close()


def claim_all(database, worker):
    """Take jobs until there are none left, as worker ``worker``; their ids."""
    store, taken = Store(database), []
    while job := store.claim(f"host{worker}", (worker, 0.0), cpu_jobs=1000):
        taken.append(job.id)
    store.close()
    return taken
