"""Whether a device or node may claim a job now, read and locked within the claim's transaction."""

from sqlalchemy import bindparam, func
from sqlmodel import Session, col, select

from shared.database.engine import hold
from shared.database.tables import Device, Job, Node, Replica, epoch_now
from shared.jobs.claims import gangs, pauses, running_limits
from shared.jobs.lines import windows
from shared.states import REPLICA_READY, JobState, Priority

# Built once, because a device waits for its claim. The rows stay locked until the claim is committed.
_NODE = select(Node.drained_at, Node.seen_at).where(Node.name == bindparam("its_node")).with_for_update(read=True)
_DEVICE = (
    select(Device.quarantined_at, Device.seen_at)
    .where(Device.key == bindparam("its_device_key"))
    .with_for_update(read=True)
)
_NEEDS = select(  # type: ignore[call-overload]
    Job.mock,
    Job.target_node,
    Job.model_id,
    Job.type,
    Job.priority,
    Job.owner,
    Job.front_at,
    Job.members,
    Job.devices,
    epoch_now().label("now"),
    running_limits.HAS_LIMIT.label("has_limit"),
).where(Job.id == bindparam("its_job_id"))
_HELD = (
    select(Replica.state, Replica.requires)
    .where(Replica.node == bindparam("its_node"), Replica.model_id == bindparam("its_model_id"))
    .with_for_update(read=True)
)


def may_run(session: Session, job_id: str, node: str, device_key: str | None, at_most: int | None) -> bool:
    """Return whether the node and its device accept jobs and the node has the model's files, or a free slot.

    `device_key` is None for a claim of the node's io worker. The files are locked against removal. A worker that has
    deregistered claims nothing more: it returned its jobs and its processes are about to be killed. A member of a gang
    claims nothing, and a gang only while all of its devices are free. A key with as many jobs on devices as it may run
    claims no further one. Nothing that is paused is claimed, and nothing outside its window.
    """
    needs = session.execute(_NEEDS, {"its_job_id": job_id}).one_or_none()
    if needs is None:
        return False
    if needs.priority == Priority.LOW.rank and needs.front_at is None:
        in_force = windows.read_for_claim(session)
        if in_force.closed(needs.type, needs.priority, needs.owner, needs.front_at, needs.now):
            return False
    of_node = session.execute(_NODE, {"its_node": node}).one_or_none()
    if of_node is not None and of_node.drained_at is not None:
        return False
    if device_key is not None:
        members = gangs.locked(session, device_key, needs.devices, needs.members)
        if members is None:
            return False
        device = session.execute(_DEVICE, {"its_device_key": device_key}).one_or_none()
        if device is not None and (device.quarantined_at is not None or device.seen_at == 0.0):
            return False
        if not gangs.are_free(session, device_key, members):
            return False
        if needs.has_limit and not running_limits.has_room(session, needs.owner):
            return False
        if pauses.is_paused(session, job_id, node, (device_key, *members)):
            return False
    elif (of_node is not None and of_node.seen_at == 0.0) or pauses.is_paused(session, job_id, node, ()):
        return False
    if at_most is not None:
        hold(session, f"claims of {node}")  # otherwise two claims could count at the same time
        running = select(func.count()).where(
            col(Job.status) == JobState.RUNNING,
            col(Job.node) == node,
            col(Job.type) == select(Job.type).where(col(Job.id) == job_id).scalar_subquery(),
        )
        return session.exec(running).one() < at_most
    if needs.mock or needs.target_node is not None:
        return True
    model_id = needs.model_id
    while model_id is not None:  # a preset needs its base's files too
        held = session.execute(_HELD, {"its_node": node, "its_model_id": model_id}).one_or_none()
        if held is None or held.state not in REPLICA_READY:
            return False
        model_id = held.requires
    return True
