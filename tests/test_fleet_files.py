"""The files of docs/fleets: what they begin is our command, and it can be begun."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from helpers.commands import run as command

from ssd1b_jax.cli import reference, serve_ray

FOLDER = Path(__file__).parents[1] / "docs" / "fleets"
FILES = sorted(FOLDER.iterdir())
SERVING = ("rayservice.yaml", "serve.yaml")


def texts(value):
    """All strings in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)


def document(path: Path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return yaml.safe_load(text)
    return json.loads(text) if path.suffix == ".ipynb" else text


def batches(path: Path) -> list[str]:
    found = [line for text in texts(document(path)) for line in re.findall(r"ssd1b batch [^\n]*", text)]
    return [line.partition(" || ")[0] for line in found]


def test_each_file_is_in_the_page():
    page = (FOLDER.parent / "fleets.md").read_text(encoding="utf-8")
    serving = (FOLDER.parent / "serving.md").read_text(encoding="utf-8")
    assert all(f"fleets/{path.name}" in page + serving for path in FILES)


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in SERVING], ids=lambda path: path.name)
def test_the_commands_can_be_begun(path, tmp_path, capsys, monkeypatch):
    """With a manifest, a model and a folder that are here."""
    Path(tmp_path, "prompts.csv").write_text("id,prompt\na,an apple\nb,a lion\n")
    monkeypatch.chdir(tmp_path)
    lines = batches(path)
    assert lines
    for line in lines:
        shell = "JOB_COMPLETION_INDEX=7 SLURM_ARRAY_TASK_ID=8 SLURM_ARRAY_TASK_COUNT=8; printf '%s\\n' "
        expanded = subprocess.run(["sh", "-c", shell + line], capture_output=True, text=True, check=True).stdout
        words = [word for word in expanded.splitlines() if word not in ("ssd1b", "--dry-run")]
        here = {"/data/prompts.csv": "prompts.csv", "/data/ssd-1b": "emoji", "ssd-1b": "emoji"}
        words = [here.get(word, re.sub(r"^(gs|s3)://BUCKET", "memory://", word)) for word in words]
        code, out, err = command(capsys, *words, "--dry-run", "--no-time")
        assert code == 0, err
        assert "2 lines, 0 of them wrong" in out


@pytest.mark.parametrize("name", SERVING)
def test_the_servers_are_ours(name):
    config = document(FOLDER / name)
    if "spec" in config:
        config = yaml.safe_load(config["spec"]["serveConfigV2"])
    [application] = config["applications"]
    assert application["import_path"] == "ssd1b_jax.cli.serve_ray:app"
    (serve,) = (each for each in reference.commands() if each.prog == "ssd1b serve")
    known = {option for action in reference.options(serve) for option in action.option_strings}
    words = shlex.split(application["args"]["options"])
    assert {word for word in words if word.startswith("--")} <= known
    assert application["args"].keys() <= set(serve_ray.NAMES)


def test_the_job_script_is_a_shell_script():
    subprocess.run(["bash", "-n", FOLDER / "array.sbatch"], check=True)
    text = (FOLDER / "array.sbatch").read_text()
    assert re.search(r"^#SBATCH --array=1-\d+$", text, re.MULTILINE)  # shares count from 1


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayservice.yaml"])
def test_clusters_ask_for_tokens_and_have_the_chips_that_workers_reserve(name):
    spec = document(FOLDER / name)["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"} and cluster["rayVersion"].startswith("2.60.")
    [group] = cluster["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    if name == "rayjob.yaml":
        reserved = re.search(r"--ray-resources TPU=(\d+)", spec["entrypoint"])[1]
    else:
        reserved = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"]["resources"]["TPU"]
    assert str(reserved) == chips


def test_shares_are_as_many_as_workers():
    job = document(FOLDER / "kueue.yaml")["spec"]
    sets = document(FOLDER / "jobset.yaml")["spec"]["replicatedJobs"]
    for spec, path in ((job, "kueue.yaml"), (sets[0]["template"]["spec"], "jobset.yaml")):
        counts = {
            int(count) for line in batches(FOLDER / path) for count in re.findall(r"--shard \S+ \+ 1\)\)/(\d+)", line)
        }
        assert counts == {spec["completions"]} and spec["completionMode"] == "Indexed"
