"""Converts on this machine, without Beam: shards spread over processes."""

import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from unified_fm.data import processes
from unified_fm.data.loader import cores
from unified_fm.data.prepare import manifest, shard
from unified_fm.data.prepare.job import Job, WorkerFailed

_CHECKS = 100  # in the course of a conversion, of what is lost


def run(
    job: Job, *, workers: int = 0, max_skip: float = 0.01, progress: bool = True
) -> list[dict[str, Any]]:
    """Writes all shards that are not done, and returns the accounts of all.

    Args:
        job: the conversion.
        workers: processes; 0: one for each core; 1: this one alone.
        max_skip: largest share of records and of boxes that may be lost: looked at on
            the way, so that a source that is none of what it was taken for stops soon.
        progress: whether a bar is shown.

    Raises:
        Unfinished: too much is lost.
        WorkerFailed: a process ended. What it had not finished is made again at the next call.
    """
    workers = min(workers or cores(), job.shards)
    with tqdm(total=job.records, unit="record", disable=not progress) as bar:
        accounts: list[dict[str, Any]] = []
        for account in _all(job, workers):
            accounts.append(account)
            if len(accounts) % max(1, job.shards // _CHECKS) == 0:  # each looks at all accounts
                manifest.check_loss(job, accounts, max_skip=max_skip)
            bar.update(account["records"] + sum(account["skipped"].values()))
    return accounts


def _all(job: Job, workers: int) -> Iterator[dict[str, Any]]:
    numbers: Sequence[int] = range(job.shards)
    if workers == 1:
        yield from (shard.write(job, number) for number in numbers)
        return
    # Not forked: a source may hold threads and open files, which a fork would share.
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_begin, initargs=(os.getpid(),)
    ) as pool:
        try:
            futures = [pool.submit(shard.write, job, number) for number in numbers]
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise WorkerFailed(
                "a process that wrote shards has ended, as when the memory is full (--workers=N"
                " takes fewer). Run the same command again: it goes on at the shards that are not"
                " done"
            ) from error
        except BaseException:  # Ctrl-C; or too much is lost, and no more is asked for
            # A shard may take an hour, and one that is ended in the middle is made again.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(parent: int) -> None:
    """Of a process that writes: Ctrl-C is for the one that has started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.end_with(parent)
