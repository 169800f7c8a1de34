"""A cluster of two nodes on this machine, and an object store of moto's: servers of their own, as anywhere."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from deid_diffusion.imaging.pictures import load_picture
from deid_diffusion.jobs import distributed
from deid_diffusion.jobs.distributed import Cluster, ClusterError, connect, spread
from deid_diffusion.jobs.journal import NAME, Journal
from deid_diffusion.jobs.plan import PlanError, plan
from deid_diffusion.jobs.run import run
from deid_diffusion.jobs.url_plan import plan_urls
from deid_diffusion.jobs.urls import Url, UrlError, place
from deid_diffusion.settings import Settings

from ..fakes import Inverter, photo

ray = pytest.importorskip("ray", reason="needs Ray; pip install 'deid-diffusion[ray]'")
CHECKOUT = Path(__file__).parent.parent.parent
SLOW_S = 0.3


class Slow(Inverter):
    """Takes its time, counts who was begun and where, and is killed by the picture poison.png."""

    def __init__(self, marks: Path):
        super().__init__()
        self.marks = marks

    def __call__(self, image, seed=0, boxes=None, settings=None):
        with open(self.marks, "a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()} {image.name}\n")
        time.sleep(SLOW_S)
        if image.name == "poison.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, seed, boxes, settings)


class Elsewhere(Inverter):
    """Has other weights where it arrives."""

    def __reduce__(self):
        return Inverter, ()

    def versions(self):
        return {"weights": "of the driver"}


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster as Nodes

    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # on a busy machine a node takes its time
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *filter(None, [before])])
    room = {"object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, **room})
    try:
        nodes.second = nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
        ray.init(address=nodes.address, namespace="deid", log_to_driver=False, configure_logging=False)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture(scope="module")
def store():
    """An S3 of its own with an empty bucket."""
    server = pytest.importorskip("moto.server", reason="needs moto; pip install 'deid-diffusion[test]'")
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs; pip install 'deid-diffusion[s3]'")
    own = server.ThreadedMotoServer(port=0, verbose=False)
    own.start()
    _host, port = own.get_host_and_port()
    new = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    files = s3fs.S3FileSystem()
    files.mkdir("photos")
    yield files
    own.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def work(jobs, anonymize, journal, nodes: Cluster | None = None, **how) -> list:
    spreading = map if nodes is None else lambda do, waiting: spread(nodes, None, do, waiting)
    return list(run(jobs, anonymize, Settings(), journal, map=spreading, **how))


def test_objects_go_to_objects_and_a_second_run_knows_them(store, tmp_path, monkeypatch):
    monkeypatch.setenv("DEID_CACHE", str(tmp_path / "cache"))
    for name in ("a.png", "sub/b.png", ".hidden.png", "notes.txt"):
        store.put_file(str(photo(tmp_path / "in" / f"x{Path(name).stem}.png")), f"photos/in/{name}")
    source, out = Url("s3://photos/in"), Url("s3://photos/out")
    planned = plan_urls([source], out, seed=3, exclude=())
    assert [job.name for job in planned.jobs] == ["a.png", "sub/b.png"]
    assert sorted(skipped.reason for skipped in planned.skipped) == ["hidden", "no picture by its suffix"]
    journal = Journal(planned.folder)
    assert all(result.ok for result in work(planned.jobs, Inverter(), journal))
    store.invalidate_cache()
    assert sorted(store.find("photos/out")) == ["photos/out/a.png", "photos/out/sub/b.png"]
    store.get_file("photos/out/a.png", str(tmp_path / "a.png"))
    before, after = load_picture(tmp_path / "in" / "xa.png").image, load_picture(tmp_path / "a.png").image
    assert (after[2:10, 2:10] == 255 - before[2:10, 2:10]).all()
    assert all(result.earlier for result in work(planned.jobs, Inverter(), Journal(planned.folder)))
    store.put_file(str(photo(tmp_path / "other.png", side=40)), "photos/in/a.png")
    store.invalidate_cache()
    again = work(planned.jobs, Inverter(), Journal(planned.folder))
    assert {result.job.name: result.earlier for result in again} == {"a.png": False, "sub/b.png": True}
    # Down to this machine, and what is no picture fails alone, by its own name.
    store.pipe_file("photos/in/sub/bad.png", b"no picture")
    store.invalidate_cache()
    down = plan_urls([source], tmp_path / "down", seed=3)
    results = work(down.jobs, Inverter(), Journal(down.folder))
    assert [result.job.name for result in results if not result.ok] == ["sub/bad.png"]
    assert "s3://photos/in/sub/bad.png" in results[-1].error
    assert (tmp_path / "down" / "sub" / "b.png").exists()


def test_what_a_store_refuses_is_one_line(store, monkeypatch):
    with pytest.raises(UrlError, match="s3://nowhere/in: wanted"):
        plan_urls([Url("s3://nowhere/in")], Url("s3://photos/out"))
    with pytest.raises(PlanError, match="give -o"):
        plan_urls([Url("s3://photos/in")], None)
    with pytest.raises(PlanError, match="outside of the inputs"):
        plan_urls([Url("s3://photos/in")], Url("s3://photos/in/out"))
    with pytest.raises(UrlError, match="fsspec opens"):
        plan_urls([Url("gopher://photos/in")], Path("out"))
    assert place("s3://b/x.png").suffix == ".png"
    assert place("holiday/x.png") == Path("holiday/x.png")


def test_two_nodes_do_what_one_process_does_and_a_poisonous_picture_fails_alone(cluster, tmp_path):
    for name in "abcdefg":
        photo(tmp_path / "in" / f"{name}.png")
    photo(tmp_path / "in" / "poison.png")
    planned = plan([tmp_path / "in"], tmp_path / "out", seed=1)
    results = work(planned.jobs, Slow(tmp_path / "marks"), Journal(planned.folder), Cluster(cluster.address))
    assert {result.job.name for result in results if not result.ok} == {"poison.png"}
    assert "ended 3 times; nothing was written" in next(result.error for result in results if not result.ok)
    rows = [line.split() for line in (tmp_path / "marks").read_text().splitlines()]
    assert len({node for node, _ in rows}) == 2
    assert sorted(name for _, name in rows if name != "poison.png") == [f"{name}.png" for name in "abcdefg"]
    alone = plan([tmp_path / "in"], tmp_path / "alone", seed=1)
    for result in work(alone.jobs, Inverter(), Journal(alone.folder)):
        if result.job.name != "poison.png":
            other = tmp_path / "out" / result.job.name
            assert other.read_bytes() == result.job.out_path.read_bytes()


def test_the_command_line_reports_what_a_cluster_did(cluster, tmp_path, monkeypatch, capsys):
    from deid_diffusion import cli
    from deid_diffusion.cli import run as run_command

    monkeypatch.setattr(run_command, "_load", lambda options: Inverter())
    for name in "ab":
        photo(tmp_path / "in" / f"{name}.png")
    words = ["run", tmp_path / "in", "-o", tmp_path / "out", "--report", tmp_path / "report.json"]
    assert cli.main([*map(str, words), "--ray", cluster.address, "--workers", "2"]) == 0
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["complete"] is True
    assert [(row["file"], row["error"]) for row in told["files"]] == [("a.png", ""), ("b.png", "")]
    assert "2 of 2 pictures done" in capsys.readouterr().err
    assert cli.main([*map(str, words), "--ray", cluster.address]) == 0  # nothing is left to do


def test_no_cluster_no_room_and_other_weights_are_said(cluster, tmp_path, monkeypatch):
    planned = plan([photo(tmp_path / "in" / "a.png")], tmp_path / "out.png")
    with pytest.raises(ClusterError, match="no room for a worker of 99 CPUs and 0 GPUs, it has 2 and 0 on 2 machines"):
        work(planned.jobs, Inverter(), None, Cluster(cluster.address, cpus=99))
    with pytest.raises(ClusterError, match="no room for a worker of 1 CPUs and 0.25 GPUs"):
        work(planned.jobs, Inverter(), None, Cluster(cluster.address, gpus=0.25))
    with pytest.raises(ClusterError, match="other versions or weights"):
        work(planned.jobs, Elsewhere(), None, Cluster(cluster.address))
    assert not (tmp_path / "out.png").exists()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:9", "auto!"):
        with pytest.raises(ClusterError, match=r"wanted a running cluster there.*ray start --head"):
            connect(address)


def test_a_node_killed_in_the_middle_loses_and_doubles_nothing(cluster, tmp_path):
    names = [f"{number:02}.png" for number in range(16)]
    for name in names:
        photo(tmp_path / "in" / name)
    planned = plan([tmp_path / "in"], tmp_path / "out", seed=1)
    marks, journal, results, seen = tmp_path / "marks", Journal(planned.folder), [], set()
    spreading = lambda do, waiting: spread(Cluster(cluster.address, patience_s=60), None, do, waiting)  # noqa: E731
    for result in run(planned.jobs, Slow(marks), Settings(), journal, map=spreading):
        results.append(result)
        nodes = {line.split()[0] for line in marks.read_text().splitlines()}
        if len(nodes) == 2 and not seen:
            seen = nodes
            cluster.remove_node(cluster.second, allow_graceful=False)
    assert len(seen) == 2
    assert sorted(result.job.name for result in results) == names
    assert all(result.ok for result in results)
    rows = [json.loads(row) for row in (tmp_path / "out" / NAME).read_text().splitlines() if row]
    assert sorted(row["out"] for row in rows if row.get("state") == "done") == names
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == names


def test_without_ray_it_says_what_to_install(monkeypatch):
    import builtins

    real = builtins.__import__

    def missing(name, *more, **how):
        if name == "ray":
            raise ImportError(name)
        return real(name, *more, **how)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ClusterError, match=r"pip install 'deid-diffusion\[ray\]'"):
        distributed.connect("auto")
