"""A deployment of the flow, and a run of it that was given a few parameters, as a worker executes it."""

import json
import re

import pytest

from flows.options.pipeline import PipelineOptions

DEPLOY = """
from flows.pipeline import extract_and_train
print(extract_and_train.to_deployment("partial").apply())
"""


@pytest.mark.slow
def test_parameters_that_a_run_of_a_deployment_is_not_given_stay_at_their_defaults(prefect, again):
    images, store = again
    given = {"images": images, "store": store, "weights": "random", "image_size": 32, "epochs": 3}
    prefect("-c", DEPLOY)
    words = [word for name, value in given.items() for word in ("--param", f"{name}={value}")]
    created = prefect("-m", "prefect", "deployment", "run", "extract-and-train/partial", *words)
    before = set(store.glob("heads/*/head.json"))
    prefect("-m", "prefect", "flow-run", "execute", re.search(r"UUID: (\S+)", created).group(1))

    (path,) = set(store.glob("heads/*/head.json")) - before
    head = json.loads(path.read_text())
    used = {**head["features"], **head["head"], "head": head["head"]["kind"], "seed": head["seed"]}
    defaults = PipelineOptions().model_dump(exclude={*given, "classes"})
    shared = defaults.keys() & used.keys()
    assert {name: used[name] for name in shared} == {name: defaults[name] for name in shared}
    assert shared > {
        "backbone",
        "pooling",
        "dtype",
        "precision",
        "head",
        "optimizer",
        "batch_size",
        "standardize",
        "seed",
    }
    assert (head["head"]["epochs"], head["head"]["classes"]) == (3, ["cats", "dogs"])
