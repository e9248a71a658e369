"""The workflows that build and publish agree with pyproject.toml, README.md and the tree."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it there

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = PROJECT["tool"]["cibuildwheel"]


def load(name: str) -> dict[str, Any]:
    """A workflow; YAML 1.1 reads its key ``on`` as true."""
    found = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


def steps_of(job: dict[str, Any], action: str) -> list[dict[str, Any]]:
    """The steps of a job that use an action."""
    return [step for step in job["steps"] if step.get("uses", "").startswith(action + "@")]


def classified_versions() -> list[str]:
    """The CPython versions that the classifiers name, ``3.10`` first."""
    found = [
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text)
        for text in PROJECT["project"]["classifiers"]
    ]
    return [match.group(1) for match in found if match]


def tag(version: str) -> str:
    """``3.10`` is ``cp310``."""
    return "cp" + version.replace(".", "")


def test_there_are_workflows_for_changes_and_for_wheels():
    assert {path.name for path in WORKFLOWS} >= {"ci.yml", "wheels.yml"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_bounded_and_hold_no_rights_and_no_secrets(path):
    workflow = load(path.name)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text(encoding="utf-8")
    for name, job in workflow["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 120, name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), (name, step)
            if "uses" in step:  # a version, never a moving branch of a stranger
                assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+@(v\d[\d.]*|release/v1)", step["uses"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_need_jobs_that_exist(path):
    jobs = load(path.name)["jobs"]
    for job in jobs.values():
        assert set(job.get("needs", [])) <= set(jobs)


def test_python_versions_agree_everywhere():
    versions = classified_versions()
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    assert PROJECT["project"]["requires-python"] == f">={versions[0]},<3.14"
    assert BUILD["build"] == [f"{tag(version)}-*" for version in versions]
    matrix = load("ci.yml")["jobs"]["versions"]["strategy"]["matrix"]
    assert matrix["python"] == versions  # strings: 3.10 as a number would be 3.1
    cuda = load("wheels.yml")["jobs"]["cuda"]["strategy"]["matrix"]
    assert cuda["python"] == [tag(version) for version in versions]


def test_cuda_is_in_one_job_and_nowhere_else():
    jobs = load("wheels.yml")["jobs"]
    (cpu,) = steps_of(jobs["cpu"], "pypa/cibuildwheel")
    (cuda,) = steps_of(jobs["cuda"], "pypa/cibuildwheel")
    assert cpu["env"]["CIBW_ENVIRONMENT"] == "FUSE_INDEX_CUDA=0"
    assert cuda["env"]["CIBW_ENVIRONMENT"] == "FUSE_INDEX_CUDA=1"
    assert BUILD["environment"]["FUSE_INDEX_CUDA"] == "0"
    assert BUILD["macos"]["environment"]["FUSE_INDEX_CUDA"] == "0"
    assert cuda["env"]["CIBW_BUILD"] == "${{ matrix.python }}-manylinux_x86_64"
    assert jobs["cuda"]["runs-on"] == "ubuntu-24.04"  # x86-64
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert 'choice not in {"auto", "0", "1"}' in setup


def test_a_cuda_wheel_has_another_name_than_the_cpu_wheel_and_wins():
    (step,) = steps_of(load("wheels.yml")["jobs"]["cuda"], "pypa/cibuildwheel")
    image = re.fullmatch(
        r"quay\.io/manylinux_cuda/manylinux_2_28_x86_64_cuda(\d+)_(\d+)",
        step["env"]["CIBW_MANYLINUX_X86_64_IMAGE"],
    )
    assert image is not None
    number = "1cu" + "".join(
        image.groups()
    )  # a build number begins with a digit and wins over none
    assert step["env"]["CIBW_CONFIG_SETTINGS"] == f"--build-option=--build-number={number}"
    # The libraries of the image are not newer than those that the CPU wheels promise.
    assert BUILD["linux"]["manylinux-x86_64-image"] == "manylinux_2_28"
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"build number {number}" in text


def test_platforms_are_those_with_wheels_of_torch():
    matrix = load("wheels.yml")["jobs"]["cpu"]["strategy"]["matrix"]["include"]
    assert {entry["platform"]: entry["runner"] for entry in matrix} == {
        "linux-x86_64": "ubuntu-24.04",
        "linux-aarch64": "ubuntu-24.04-arm",
        "macos-arm64": "macos-14",
    }
    assert BUILD["archs"] == ["native"]
    assert BUILD["macos"]["archs"] == ["arm64"]
    assert BUILD["skip"] == ["*-musllinux_*"]


def test_every_wheel_is_tested_by_a_script_that_exists():
    assert BUILD["test-command"] == "python {project}/tools/check_wheel.py"
    assert (ROOT / "tools" / "check_wheel.py").is_file()
    paths = load("wheels.yml")["on"]["pull_request"]["paths"]
    missing = [path for path in paths if not list(ROOT.glob(path))]
    assert missing == []


def test_publishing_is_trusted_and_for_tags_only():
    workflow = load("wheels.yml")
    jobs = workflow["jobs"]
    assert workflow["on"]["push"] == {"tags": ["v*"]}
    publish = jobs["publish"]
    assert publish["if"] == "github.event_name == 'push' && startsWith(github.ref, 'refs/tags/v')"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"]["name"] == "pypi"
    (step,) = steps_of(publish, "pypa/gh-action-pypi-publish")
    assert "with" not in step  # no password and no token
    others = {name: job.get("permissions") for name, job in jobs.items() if name != "publish"}
    assert set(others.values()) == {None}


def test_the_site_is_built_strictly_before_it_is_published():
    workflow = load("docs.yml")
    assert workflow["on"]["push"] == {"tags": ["v*"]}
    build, deploy = workflow["jobs"]["build"], workflow["jobs"]["deploy"]
    commands = [step["run"] for step in build["steps"] if "run" in step]
    assert commands == ["python -m pip install '.[docs]'", "python -m mkdocs build --strict"]
    assert "docs" in PROJECT["project"]["optional-dependencies"]
    assert "permissions" not in build
    assert deploy["permissions"] == {"pages": "write", "id-token": "write"}
    assert deploy["needs"] == ["build"]


def test_everything_that_is_uploaded_is_checked_and_published():
    jobs = load("wheels.yml")["jobs"]
    building = {name for name, job in jobs.items() if steps_of(job, "actions/upload-artifact")}
    assert building == set(jobs["check"]["needs"]) == {"cpu", "cuda", "sdist"}
    assert jobs["publish"]["needs"] == ["check"]
    for name in ("check", "publish"):
        (step,) = steps_of(jobs[name], "actions/download-artifact")
        assert step["with"] == {"path": "dist", "merge-multiple": True}


def test_changes_run_the_script_of_the_tree():
    job = load("ci.yml")["jobs"]["everything"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    minutes = re.search(r"at most (\d+) minutes", script)
    assert minutes is not None
    assert job["timeout-minutes"] >= int(minutes.group(1))


def test_the_readme_promises_the_release_only_for_after_it():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        assert "install fuse-index" not in block
    for paragraph in text.split("\n\n"):
        if "pip install fuse-index" in paragraph:
            assert "release" in paragraph
