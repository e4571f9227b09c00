"""The task with Flower's simulation on Ray: `flower.py TASK WORKERS`."""

import functools
import os
import time

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Where Ray's processes find task.py.
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))

import task as shared
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

folder, workers = shared.arguments()
threads = 2 if workers == 1 else 1
client_app, server_app = ClientApp(), ServerApp()


@functools.cache
def loaded():
    """Once a process."""
    return shared.Task(folder, threads)


def in_worker(folder, threads):
    # The module outlives a message, unlike what is sent with it.
    if not hasattr(shared, "loaded"):
        shared.loaded = shared.Task(folder, threads)
    return shared.loaded


@client_app.train()
def train(message, context):
    task = in_worker(folder, threads)
    config = message.content["config"]
    task.set(message.content["arrays"].to_numpy_ndarrays())
    task.train(task.rounds[config["round"]][config["client"]])
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord(task.get()), "metrics": metrics}), reply_to=message)


class Scheduled(FedAvg):
    """Federated averaging over the task's cohorts: the n-th node of a round does the n-th client's work."""

    def configure_train(self, server_round, arrays, config, grid):
        # They come one by one before the first round, which is not counted.
        while len(nodes := sorted(grid.get_node_ids())) < loaded().clients:
            time.sleep(0.1)
        cohort = len(loaded().rounds[server_round - 1])
        messages = []
        for client in range(cohort):
            # Other nodes each round.
            node = nodes[(server_round * cohort + client) % len(nodes)]
            config = ConfigRecord({"round": server_round - 1, "client": client})
            content = RecordDict({"arrays": arrays, "config": config})
            messages.append(Message(content, message_type=MessageType.TRAIN, dst_node_id=node))
        return messages

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        failed = [reply.error.reason for reply in replies if reply.has_error()]
        assert not failed, failed
        result = super().aggregate_train(server_round, replies)
        shared.say(round=server_round)
        return result


@server_app.main()
def main(grid, context):
    task = loaded()
    strategy = Scheduled(fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord(task.get()), num_rounds=len(task.rounds))
    task.set(result.arrays.to_numpy_ndarrays())
    shared.say(loss=task.evaluate())


if __name__ == "__main__":
    cpus = {"num_cpus": 2 // workers, "num_gpus": 0.0}
    run_simulation(server_app, client_app, num_supernodes=loaded().clients, backend_config={
        "client_resources": cpus, "init_args": {"num_cpus": 2, "include_dashboard": False}})
