"""TF_CONFIG: what is accepted, and the message for everything that is not."""

import copy
import json
import socket

import pytest

from amstf.errors import ConfigError
from launch import tf_config

GOOD = {
    "cluster": {"chief": ["c:1"], "worker": ["w:1", "w:2"], "ps": ["p:1"]},
    "task": {"type": "worker", "index": 1},
}


def changed(**cluster_or_task) -> str:
    config = copy.deepcopy(GOOD)
    for name, value in cluster_or_task.items():
        if name == "task":
            config["task"] = value
        elif value is None:
            del config["cluster"][name]
        else:
            config["cluster"][name] = value
    return json.dumps(config)


def test_good_config_gives_the_role():
    role = tf_config.parse(json.dumps(GOOD))
    assert (role.type, role.index, role.address) == ("worker", 1, "w:2")
    assert (role.name, role.port) == ("worker 1", 2)
    assert role.cluster["worker"] == ("w:1", "w:2")


def test_build_and_parse_are_inverse():
    role = tf_config.parse(json.dumps(GOOD))
    assert tf_config.parse(tf_config.build(role.cluster, role.type, role.index)) == role


def test_index_defaults_to_zero():
    assert tf_config.parse(changed(task={"type": "chief"})).address == "c:1"


@pytest.mark.parametrize("listed", [{}, {"evaluator": ["e:1"]}])
def test_evaluator_need_not_be_listed_and_is_stripped(listed):
    text = changed(task={"type": "evaluator", "index": 0}, **listed)
    role = tf_config.parse(text)
    assert role.address == ("e:1" if listed else "")
    assert role.port == (1 if listed else None)
    assert set(tf_config.without_evaluator(role).cluster) == {"chief", "worker", "ps"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"TF_CONFIG is not JSON \(.*\): got '\{'; wanted \{\"cluster\""),
        ("", r"TF_CONFIG is not JSON .*: got ''"),
        ("[]", r"TF_CONFIG has no cluster: got '\[\]'"),
        ('{"task": {}}', r"TF_CONFIG has no cluster"),
        (changed(chief=None), r'names no chief: got worker, ps; add "chief": \["host:port"\]'),
        (changed(chief=[]), r"names no chief"),
        (changed(worker=None), r"names no worker"),
        (changed(ps=None), r"names no ps"),
        (changed(chief=["c:1", "c:2"]), r"has 2 chiefs \(c:1, c:2\); wanted exactly one"),
        (changed(master=["m:1"]), r"unknown role 'master', wanted chief, worker, ps, evaluator"),
        (changed(worker="w:1"), r"cluster worker: got 'w:1', wanted a list of addresses"),
        (changed(task={"type": "boss"}), r"task type: got 'boss', wanted one of chief"),
        (changed(task={"type": ["ps"]}), r"task type: got \['ps'\]"),
        (changed(task={}), r"has no task: got '\{\}'"),
        (changed(task={"type": "worker", "index": 2}), r"got worker 2, but the cluster lists 2"),
        (changed(task={"type": "worker", "index": -1}), r"task index: got -1, wanted a whole"),
        (changed(task={"type": "worker", "index": "0"}), r"task index: got '0', wanted a whole"),
        (changed(ps=["p"]), r"address of ps 0: got 'p', wanted host:port"),
        (changed(ps=["p:0"]), r"address of ps 0: got 'p:0'"),
        (changed(ps=["p:65536"]), r"address of ps 0: got 'p:65536'"),
        (changed(ps=[":12"]), r"address of ps 0: got ':12'"),
        (changed(ps=["http://p:12"]), r"address of ps 0: got 'http://p:12'"),
        (changed(ps=[12]), r"address of ps 0: got 12, wanted host:port"),
        (changed(ps=["w:2"]), r"worker 1 and ps 0 have the same address w:2; give each task"),
    ],
)
def test_bad_config_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        tf_config.parse(text)


def test_taken_port_is_named_and_a_free_one_passes():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        role = tf_config.parse(changed(worker=[f"127.0.0.1:{port}", "w:2"], task=GOOD["task"]))
        mine = tf_config.ClusterRole(role.cluster, "worker", 0, role.cluster["worker"][0])
        with pytest.raises(ConfigError, match=rf"port {port} of worker 0 is taken .*another port"):
            tf_config.check_port_is_free(mine)
    tf_config.check_port_is_free(mine)
