"""Several hosts: jobs flow to all, a cut cable loses nothing and doubles nothing, a drain empties, a restart of every
process under load goes unnoticed by patient clients."""

import json
import time
from collections import Counter

import pytest

from tests.cluster.conftest import Cluster, Load, host_of
from tests.support.stack import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_jobs_flow_to_both_nodes(cluster: Cluster) -> None:
    jobs = cluster.assert_ended_once([cluster.submit(seed=seed) for seed in range(12)])
    assert {job.node for job in jobs} == {"a", "b"}
    assert {job.attempt for job in jobs} == {1}


def test_a_node_that_is_cut_off_loses_nothing_and_doubles_nothing(cluster: Cluster) -> None:
    host = host_of(cluster, "b")
    with Load(cluster) as load:
        wait_for(lambda: cluster.running_on("b"), 30, "for a job on b")
        # Long enough to be there when the cable is pulled, and when it is back: superseded attempts must notice.
        long = [cluster.submit(steps=100) for _ in range(2)]
        wait_for(lambda: set(long) & set(cluster.running_on("b")), 60, "for a long job on b")
        held = cluster.running_on("b")
        host.cut_off()
        try:
            began = time.monotonic()
            wait_for(lambda: not cluster.running_on("b"), 40, "for the lease of b's job to run out")
            taken_over = time.monotonic() - began
            states = {node["name"]: node["state"] for node in cluster.client.nodes()}
            wait_for(lambda: time.monotonic() - began > 20, 30)
        finally:
            host.heal()
        assert states["a"] == "online"
        wait_for(lambda: cluster.running_on("b"), 60, "for b to work again")
    jobs = cluster.assert_ended_once(list(dict.fromkeys([*load.ids, *long])))
    assert all(job.attempt >= 2 for job in jobs if job.id in held)
    print(f"taken over after {taken_over:.1f} s; {len(jobs)} jobs, {Counter(job.node for job in jobs)}")


def test_a_drain_empties_a_node_and_fails_nothing(cluster: Cluster) -> None:
    with Load(cluster) as load:
        wait_for(lambda: cluster.running_on("b"), 60, "for a job on b")
        told = json.loads(cluster.wanworks("drain", "b", "--wait", "--timeout", "60", "--json"))
        assert (told["state"], told["running_jobs"]) == ("drained", 0)
        before = len(load.ids)
        cluster.nodes["b"].stop()  # and it stays drained when it comes back
        cluster.nodes["b"].start()
        load.wait_for_more(7, "while b is drained")
        assert cluster.running_on("b") == []
        (node,) = (node for node in cluster.client.nodes() if node["name"] == "b")
        assert node["drained_at"] is not None
        while_drained = load.ids[before:]
    assert {job.node for job in cluster.assert_ended_once(while_drained)} == {"a"}
    cluster.wanworks("undrain", "b")
    with Load(cluster) as again:
        wait_for(lambda: cluster.running_on("b"), 60, "for b to work again")
    jobs = cluster.assert_ended_once([*load.ids, *again.ids])
    assert {job.failures for job in jobs} == {0}
    print(f"{len(jobs)} jobs, attempts {Counter(job.attempt for job in jobs)}")


def test_a_restart_of_every_process_under_load_loses_nothing(cluster: Cluster) -> None:
    ups = {"core": cluster.core, **cluster.nodes}
    with Load(cluster) as load:
        for name, up in ups.items():
            for process in up.names():
                up.restart(process)
                load.wait_for_more(1, f"after {name}/{process}")
        for server in (cluster.redis, cluster.postgresql):
            server.stop()
            server.start()
            load.wait_for_more(2, "after a server's restart")
        for up in (*cluster.nodes.values(), cluster.core):  # whole hosts, as for a new version
            up.stop()
            up.start()
    jobs = cluster.assert_ended_once(load.ids, swept=True)
    print(f"{len(jobs)} jobs, attempts {Counter(job.attempt for job in jobs)}")
