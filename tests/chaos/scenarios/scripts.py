"""The scenarios themselves."""

import subprocess
from collections.abc import Callable, Mapping

from tests.chaos.isolation import disk
from tests.chaos.scenarios.scene import LOST, Scene, worker_process
from tests.support.oracle.stored import judge
from tests.support.waiting import eventually

_STOP_S = 60
"""Within this time a running worker notices that its topic is another one."""


def log_tail_cut(scene: Scene) -> None:
    """The broker loses the end of the log, below what is committed."""
    scene.ingested(300)
    copy = scene.copy_log()
    scene.ingested(200)
    committed = scene.committed()
    scene.cut_log(copy)
    _expect_stop(scene, {number: (committed[number], end) for number, (_, end) in scene.log().items()})
    scene.publish(300)
    scene.continue_elsewhere()


def log_tail_cut_and_refilled(scene: Scene) -> None:
    """As before, and new records take the offsets of the lost ones before a worker comes."""
    scene.ingested(300)
    copy = scene.copy_log()
    scene.ingested(200)
    scene.cut_log(copy)
    scene.publish(500)
    _expect_stop(scene, {})
    scene.continue_elsewhere()


def topic_created_again(scene: Scene) -> None:
    """The topic is deleted and created again while a worker reads it."""
    scene.ingested(300)
    worker = worker_process(scene)
    try:
        scene.publish(100)
        eventually(lambda: sum(scene.committed().values()) == 400, within=60, what="work before the topic is deleted")
        scene.recreate_topic()
        scene.publish(100)
        try:
            code = worker.wait(_STOP_S)
            scene.check(_done(worker, code), LOST, "while the topic was deleted and created again")
        except subprocess.TimeoutExpired:
            worker.kill()
            log = _done(worker, -1).stderr
            scene.problems.append(f"a running worker did not stop within {_STOP_S} s: {log[-1500:]}")
    finally:
        worker.kill()
    _expect_stop(scene, {})
    scene.continue_as_documented()
    scene.check(scene.ingest(), 0, "with the new topic")
    scene.check_left()


def retention_overtakes(scene: Scene) -> None:
    """Records are removed that no worker has read."""
    scene.ingested(300)
    committed = scene.committed()
    scene.publish(400)
    begins = {number: at + 50 for number, at in committed.items()}
    scene.remove_records(begins)
    _expect_stop(scene, {number: (committed[number], at, 50) for number, at in begins.items()})
    scene.continue_as_documented()
    scene.check_left()


def offsets_expired(scene: Scene) -> None:
    """The group's offsets expire, and the beginning of the log is removed."""
    scene.ingested(300)
    committed = scene.committed()
    scene.publish(400)
    scene.expire_offsets()
    scene.remove_records({number: at + 50 for number, at in committed.items()})
    _expect_stop(scene, {})
    scene.continue_as_documented()
    scene.check_left()


def collection_dropped(scene: Scene) -> None:
    """Somebody drops the collection, and the offsets remain."""
    scene.ingested(300)
    with scene.client() as client:
        for name in client.list_collections():
            if name.startswith(scene.collection):
                client.drop_collection(name)
    done = scene.ingest()
    scene.check_stop(done, [(at,) for at in scene.committed().values()])
    if done.returncode == 0:
        with scene.client() as client:
            scene.problems.append(f"the worker went on: {judge(scene.scope, client)}")


def collection_restored(scene: Scene) -> None:
    """Milvus comes back from a copy that is older than the offsets."""
    scene.ingested(300)
    copy = scene.servers.folder / "milvus-copy"
    scene.servers.milvus.snapshot(copy)
    scene.ingested(200)
    scene.servers.milvus.kill()
    scene.servers.milvus.restore(copy)
    scene.servers.milvus.launch()
    scene.servers.milvus.await_ready()
    _expect_stop(scene, {number: (at,) for number, at in scene.committed().items()})


def disk_full_for_an_audit(scene: Scene) -> None:
    """The audit's temporary files find no room: it says so and changes nothing, and the workers need none."""
    scene.ingested(800)
    rows = scene.rows()
    folder = scene.servers.folder / "tiny"
    with disk(folder, 64 * 1024) as mounted:
        assert mounted is not None, "a small disk needs root and namespaces"
        done = scene.audit_in(folder, "--repair")
    scene.check(done, 1, "of an audit without room for its files")
    if "TMPDIR" not in done.stderr:
        scene.problems.append(f"the message does not say where there is no room: {done.stderr[-600:]}")
    if scene.rows() != rows:
        scene.problems.append(f"{rows} rows before, {scene.rows()} after")
    scene.ingested(100)
    scene.check_left()


def _expect_stop(scene: Scene, numbers: Mapping[int, tuple[int, ...]]) -> None:
    """A worker stops, names the numbers of one Kafka partition, and neither rows nor offsets change."""
    before = scene.rows(), scene.committed()
    done = scene.ingest()
    scene.check_stop(done, list(numbers.values()))
    if (after := (scene.rows(), scene.committed())) != before:
        scene.problems.append(f"rows and offsets before the stop: {before}, after it: {after}")


def _done(worker: "subprocess.Popen[str]", code: int) -> "subprocess.CompletedProcess[str]":
    out, errors = worker.communicate()
    return subprocess.CompletedProcess(worker.args, code, out, errors)


SCENARIOS: Mapping[str, Callable[[Scene], None]] = {
    "log tail cut": log_tail_cut,
    "log tail cut and refilled": log_tail_cut_and_refilled,
    "topic created again": topic_created_again,
    "retention overtakes": retention_overtakes,
    "offsets expired": offsets_expired,
    "collection dropped": collection_dropped,
    "disk full for an audit": disk_full_for_an_audit,
    "collection restored": collection_restored,
}
