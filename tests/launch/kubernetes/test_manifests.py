"""Manifests against the published schemas, and what no schema knows: names, roles, exit codes."""

import json
import pathlib
import subprocess
import sys

import jsonschema
import pytest

from launch import program, tf_config
from launch.kubernetes import plain, tfjob
from launch.kubernetes.job_config import JobConfig

SCHEMAS = json.loads(pathlib.Path(__file__).with_name("schemas.json").read_text())
ROOT = pathlib.Path(__file__).parents[3]
SMALL = {
    "name": "clicks",
    "image": "registry.example.com/amstf:0.1.0",
    "arguments": ("--dataset=/data/clicks", "--model=dicm", "--out=/data/runs/1"),
    "claim": "training-data",
}
FULL = {
    **SMALL,
    "claim_size": "100Gi",
    "storage_class": "shared",
    "namespace": "ml",
    "workers": 3,
    "servers": 2,
    "evaluator": True,
    "gpus": 1,
    "worker_gpus": 2,
    "port": 3000,
    "max_hours": 12,
}
RENDERERS = {"tfjob": tfjob.render, "plain": plain.render}


def check(manifest):
    schema = {"$ref": f"#/$defs/{SCHEMAS['kinds'][manifest['kind']]}", "$defs": SCHEMAS["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(manifest)


def of_kind(items, kind):
    return [item for item in items if item["kind"] == kind]


def pod_specs(items):
    """The pod of each role."""
    templates = [job["spec"]["template"] for job in of_kind(items, "Job")]
    for job in of_kind(items, "TFJob"):
        templates += [replica["template"] for replica in job["spec"]["tfReplicaSpecs"].values()]
    component = "app.kubernetes.io/component"
    return {pod["metadata"]["labels"][component]: pod["spec"] for pod in templates}


@pytest.mark.parametrize("fields", [SMALL, FULL])
@pytest.mark.parametrize("render", RENDERERS.values())
def test_manifests_fit_the_published_schemas(render, fields):
    items = render(JobConfig(**fields))
    for item in items:
        check(item)
    assert {item["metadata"]["namespace"] for item in items} == {fields.get("namespace", "default")}


@pytest.mark.parametrize("kind", ["Job", "TFJob"])
def test_the_check_finds_what_is_wrong(kind):
    for spoil in (
        lambda job: job["spec"].update(restartPolicy="Never"),
        lambda job: job["metadata"].update(labels="x"),
        lambda job: next(iter(pod_specs([job]).values())).update(containers="tensorflow"),
        lambda job: next(iter(pod_specs([job]).values())).update(gpus=1),
    ):
        items = RENDERERS["plain" if kind == "Job" else "tfjob"](JobConfig(**SMALL))
        job = of_kind(items, kind)[0]
        check(job)
        spoil(job)
        with pytest.raises(jsonschema.ValidationError):
            check(job)


def test_plain_pods_have_a_tf_config_with_names_that_the_service_gives():
    items = plain.render(JobConfig(**FULL))
    (service,) = of_kind(items, "Service")
    pods = pod_specs(items)
    for role, spec in pods.items():
        (job,) = (job for job in of_kind(items, "Job") if job["metadata"]["name"].endswith(role))
        assert spec["subdomain"] == service["metadata"]["name"]
        names = [variable["name"] for variable in spec["containers"][0]["env"]]
        assert names.index("JOB_COMPLETION_INDEX") < names.index("TF_CONFIG")
        text = spec["containers"][0]["env"][names.index("TF_CONFIG")]["value"]
        for index in range(job["spec"]["completions"]):
            task = tf_config.parse(text.replace("$(JOB_COMPLETION_INDEX)", str(index)))
            assert task.name == f"{role} {index}"
            if role != "evaluator":
                # Kubernetes names an Indexed Job's pods so.
                host = f"{job['metadata']['name']}-{index}.{service['metadata']['name']}"
                assert task.address == f"{host}:3000"


def test_restarts_fit_the_exit_codes():
    for job in of_kind(plain.render(JobConfig(**FULL)), "Job"):
        failing, ignored = job["spec"]["podFailurePolicy"]["rules"]
        codes = failing["onExitCodes"]["values"]
        assert failing["action"] == "FailJob" and all(map(program.is_permanent, codes))
        assert {program.EXIT_UNEXPECTED, program.EXIT_WRONG_INPUT} == set(codes)
        assert ignored["action"] == "Ignore"
        # Without it Kubernetes refuses a pod failure policy.
        assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    (job,) = of_kind(tfjob.render(JobConfig(**FULL)), "TFJob")
    policies = {r["restartPolicy"] for r in job["spec"]["tfReplicaSpecs"].values()}
    assert policies == {"ExitCode"}
    assert job["spec"]["runPolicy"]["activeDeadlineSeconds"] == 12 * 3600


@pytest.mark.parametrize("render", RENDERERS.values())
def test_every_role_gets_what_it_needs(render):
    pods = pod_specs(render(JobConfig(**FULL)))
    assert set(pods) == {"chief", "worker", "ps", "evaluator"}
    limits = {role: spec["containers"][0]["resources"]["limits"] for role, spec in pods.items()}
    gpus = {role: limit.get("nvidia.com/gpu") for role, limit in limits.items()}
    assert gpus == {"chief": None, "worker": 2, "ps": 1, "evaluator": 1}
    for spec in pods.values():
        (container,) = spec["containers"]
        assert container["name"] == "tensorflow"  # Or Kubeflow gives it no TF_CONFIG.
        assert container["command"] == ["python", "-m", "launch.train"]
        assert container["args"] == list(SMALL["arguments"])
        assert container["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
        assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == "training-data"
    assert set(pod_specs(render(JobConfig(**SMALL)))) == {"chief", "worker", "ps"}


@pytest.mark.parametrize("render", RENDERERS.values())
def test_only_the_jobs_pods_reach_its_port(render):
    items = render(JobConfig(**FULL))
    (policy,) = of_kind(items, "NetworkPolicy")
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [
        {
            "from": [{"podSelector": {"matchLabels": chosen}}],
            "ports": [{"protocol": "TCP", "port": 3000}],
        }
    ]
    for job in of_kind(items, "Job"):
        assert chosen.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    for job in of_kind(items, "TFJob"):
        for replica in job["spec"]["tfReplicaSpecs"].values():
            assert chosen.items() <= replica["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Clicks"}, r"name: got 'Clicks', wanted small letters"),
        ({"name": "a" * 41}, r"name: got .* at most 40"),
        ({"workers": 0}, r"workers: got 0, wanted a number from 1"),
        ({"workers": "2"}, r"workers: got '2', wanted int"),
        ({"evaluator": 1}, r"evaluator: got 1, wanted bool"),
        ({"memory": "8 GB"}, r"memory: got '8 GB', wanted a quantity"),
        ({"port": 80}, r"port: got 80, wanted a number from 1024"),
        ({"image": ""}, r"image: got '', wanted a container image"),
        ({"mount": "data"}, r"mount: got 'data', wanted an absolute path"),
        ({"arguments": ("--dataset=d",)}, r"wanted a list with --model=\.\.\."),
        ({"arguments": "--dataset=d"}, r"wanted list of str"),
        ({"arguments": (*SMALL["arguments"], "--cluster=2x2")}, r"wanted no --cluster"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    from amstf.errors import ConfigError

    with pytest.raises(ConfigError, match=message):
        JobConfig(**{**SMALL, **change})


def render_file(path, kind="plain"):
    return subprocess.run(
        [sys.executable, "-m", "launch.kubernetes", f"--config={path}", f"--kind={kind}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_toml_and_json_give_the_same_list(tmp_path):
    lines = [f"{name} = {json.dumps(value)}" for name, value in FULL.items()]
    (tmp_path / "job.toml").write_text("\n".join(lines))
    (tmp_path / "job.json").write_text(json.dumps(FULL))
    toml, as_json = render_file(tmp_path / "job.toml"), render_file(tmp_path / "job.json")
    assert (toml.returncode, toml.stderr) == (0, "")
    assert toml.stdout == as_json.stdout
    manifests = json.loads(toml.stdout)
    assert manifests["kind"] == "List"
    assert manifests["items"] == plain.render(JobConfig(**FULL))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("job.toml", "name = ", "is not toml: "),
        ("job.json", "{", "is not json: "),
        ("job.json", "[]", "got list, wanted fields with values"),
        ("job.json", '{"nmae": "x"}', "unknown field 'nmae'; known: name, image"),
        ("job.json", '{"name": "x"}', "the field 'image' is missing"),
        ("nothing.toml", None, "cannot read"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    done = render_file(tmp_path / name)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1
