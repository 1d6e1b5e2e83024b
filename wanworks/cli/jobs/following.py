"""`wanworks watch` and `fetch`: show a job's progress until it ends, and download its video."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanworks.cli import screen
from wanworks.cli.ids import job_id
from wanworks.cli.jobs.naming import no_such_file, no_video
from wanworks.cli.options import AsJson, Home, JobId, Url, client_of
from wanworks.cli.targets import check_target
from wanworks.client.shapes import ArtifactLink, Job, artifacts_of, ended, succeeded, video_of, why_not
from wanworks.errors import ApiRefused, ConfigurationError, ExitCode, WanworksError

if TYPE_CHECKING:
    from wanworks.client.client import Client


def watch(
    job: JobId,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait; the job continues. [no limit]")] = None,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's progress until it has ended. The exit code is 1 if it failed or was cancelled."""
    with client_of(url, home) as client:
        found = followed(client, client.job(job_id(client, job)), timeout)
    if as_json:
        screen.print_json(found)
    if not succeeded(found):
        raise ApiRefused(why_not(found))
    if not as_json:
        print(f"{found['id']} succeeded; `wanworks fetch {found['id']}` downloads its video" if video_of(found)
              else f"{found['id']} succeeded")  # fmt: skip


def fetch(
    job: JobId,
    file: Annotated[str | None, typer.Option(help="Name of the artifact. [the video]")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write. [JOB-ID.FORMAT]")] = None,
    open_it: Annotated[
        bool, typer.Option("--open", help="Open it with this machine's program for such files.")
    ] = False,
    url: Url = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Download the video of a job, or another of its files."""
    check_target(out)
    with client_of(url, home) as client:
        found = client.job(job_id(client, job))
        if file is None and found["type"] != "generation":
            raise ApiRefused(no_video(found))
        if not ended(found):
            raise ApiRefused(
                f"job {found['id']} is {found['status']}; `wanworks watch {found['id']}` waits for its end"
            )
        if file is None:
            finish(client, found, out, open_it=open_it, as_json=as_json)
            return
        wanted = next((one for one in artifacts_of(found) if one["name"] == file), None)
        if wanted is None:
            raise ConfigurationError(no_such_file(found, file))
        target = out or Path(f"{found['id']}-{file}")
        _download(client, wanted, target, found["id"])
    _tell(found, target, open_it=open_it, as_json=as_json)


def followed(client: "Client", submitted: Job, timeout: float | None = None) -> Job:
    """Show the progress of a job. Return it once it has ended. Raises TimedOut; ends the command if interrupted."""
    job = submitted
    with screen.ProgressBars() as bars:
        try:
            for job in client.progress(submitted["id"], timeout):
                bars.show(job, job["id"])
        except KeyboardInterrupt:
            screen.note(f"job {job['id']} continues; `wanworks watch {job['id']}` follows it, "
                        f"`wanworks cancel {job['id']}` stops it")  # fmt: skip
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    return job


def finish(client: "Client", job: Job, out: Path | None, *, open_it: bool, as_json: bool) -> None:
    """Download the video of an ended job and print its path. Raises ApiRefused if the job did not succeed."""
    video = fetch_video(client, job, out) if succeeded(job) else None
    if video is None:
        if as_json:
            screen.print_json({**job, "out": None})
        raise ApiRefused(why_not(job))
    _tell(job, video, open_it=open_it, as_json=as_json)


def fetch_video(client: "Client", job: Job, out: Path | None) -> Path:
    """Download the job's video to `out`, or to JOB-ID.FORMAT here. Raises ApiRefused if it has none."""
    if (video := video_of(job)) is None:
        raise ApiRefused(no_video(job))
    target = out or Path(f"{job['id']}{Path(video['name']).suffix}")
    _download(client, video, target, job["id"])
    return target


def _download(client: "Client", artifact: ArtifactLink, target: Path, job_id: str) -> None:
    try:
        client.download(artifact, target)
    except OSError as error:
        reason = error.strerror or error
        again = f"the server keeps the file: `wanworks fetch {job_id} --out FILE` downloads it again"
        raise WanworksError(f"{target} cannot be written: {reason}; {again}") from None


def _tell(job: Job, path: Path, *, open_it: bool, as_json: bool) -> None:
    if as_json:
        screen.print_json({**job, "out": str(path)})
    else:
        print(path)
    if open_it and typer.launch(str(path)) != 0:
        screen.note(f"no program for {path.name} could be started here")
