"""The task with pfl-research's simulated backend: `pfl_research.py TASK WORKERS`; several workers by torchrun."""

import os
import sys

if sys.argv[2] != "1" and "RANK" not in os.environ:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={sys.argv[2]}"]
    os.execv(sys.executable, run + sys.argv)

import functools
import types

import torch

from task import Task, arguments, say
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Steps(Dataset):
    """A client's batches, which are of several widths."""

    def __init__(self, task, batches, user_id):
        super().__init__(raw_data=[torch.zeros(1)], user_id=user_id)
        self.task, self.batches = task, batches

    def __len__(self):
        return len(self.batches)

    def iter(self, batch_size):
        return map(self.task.batch, self.batches)


class Rounds(TrainingProcessCallback):
    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        if os.environ.get("RANK", "0") == "0":
            say(round=central_iteration + 1)
        return False, Metrics()


def main():
    folder, workers = arguments()
    task = Task(folder, threads=2 if workers == 1 else 1)
    # What pfl asks of a module.
    task.model.loss = types.MethodType(lambda _, inputs, targets: task.loss(inputs, targets), task.model)
    task.model.metrics = types.MethodType(lambda _, *batch: {"loss": Weighted(0, 1)}, task.model)
    clients = [batches for cohort in task.rounds for batches in cohort]
    users = iter(range(len(clients) + 1))
    data = FederatedDataset(lambda user: Steps(task, clients[user], str(user)), lambda: next(users))
    model = PyTorchModel(
        task.model,
        local_optimizer_create=functools.partial(torch.optim.SGD, momentum=task.momentum),
        central_optimizer=torch.optim.SGD(task.trained, lr=1.0),
    )
    cohort = len(task.rounds[0])
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=len(task.rounds), evaluation_frequency=10**9,
            train_cohort_size=cohort, val_cohort_size=0),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=task.lr, local_batch_size=1),
        callbacks=[Rounds()],
    )
    if os.environ.get("RANK", "0") == "0":
        say(loss=task.evaluate())


main()
