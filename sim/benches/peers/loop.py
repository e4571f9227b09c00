"""Federated averaging as a plain PyTorch + PEFT loop: `loop.py TASK WORKERS`.

One worker: this process, on two threads. More: a process each, on one thread.
"""

import multiprocessing

from task import Task, arguments, say

_task = None


def start(folder):
    global _task
    _task = Task(folder, threads=1)


def work(job):
    values, batches = job
    _task.set(values)
    _task.train(batches)
    return _task.get()


def main():
    global _task
    folder, workers = arguments()
    pool = multiprocessing.get_context("spawn").Pool(workers, start, [folder]) if workers > 1 else None
    _task = task = Task(folder, threads=2 if workers == 1 else 1)
    values = task.get()
    for done, cohort in enumerate(task.rounds, 1):
        jobs = [(values, batches) for batches in cohort]
        total = [0.0 * value for value in values]
        for local in pool.imap_unordered(work, jobs) if pool else map(work, jobs):
            for sum_, value in zip(total, local, strict=True):
                sum_ += value
        values = [sum_ / len(cohort) for sum_ in total]
        say(round=done)
    task.set(values)
    say(loss=task.evaluate())


if __name__ == "__main__":
    main()
