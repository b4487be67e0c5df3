"""Every flag does something: each is set to another value than its default, and what should follow is looked for.

`exercises` names the flags of a test; the last test counts that none was forgotten.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from flows.cli import command
from flows.options.features import FeatureOptions
from flows.options.pipeline import PipelineOptions
from flows.registry import PIPELINE
from storage.errors import InputError
from storage.layout import Store
from storage.manifest.space import read_spec
from storage.manifest.versions import latest_version
from storage.shards.shard import Shard
from storage.source.splits import derived_split
from tests import toy
from tests.flows.conftest import PROJECT, TINY
from tests.flows.in_process import server_of
from vision.specs import FeatureSpec
from workers.jobs.spaces import version_record
from workers.runners.inline import CAUTION

main = partial(command.main, PIPELINE)
parse = partial(command.parse, PIPELINE)
EXERCISED: set[str] = set()
SMALL = ("--weights", "random", "--image-size", "32")


def exercises(*flags: str):
    EXERCISED.update(flags)
    return lambda test: test


def planned(capsys, *arguments) -> dict:
    """What --plan says, in this process: no server, no children."""
    assert main([*map(str, arguments), "--plan"]) == 0
    return json.loads(capsys.readouterr().out)


def swap_digests(store: Path) -> None:
    """Let the digest caches, one a folder of images, tell of each image what they know of the next."""
    caches = list((store / "cache").glob("digests-*.parquet"))
    assert caches
    for cache in caches:
        table = pq.read_table(cache)
        swapped = table.set_column(
            4, table.schema.field(4), table["digest"].take(np.roll(np.arange(table.num_rows), -1))
        )
        pq.write_table(swapped, cache, use_dictionary=False, compression="zstd", write_page_checksum=True)


# How it is read: seen in a plan


@exercises("--images", "--plan")
def test_a_plan_counts_the_images_of_the_folder_and_does_nothing(capsys, images, store):
    found = planned(capsys, "--images", images, "--store", store, *SMALL)
    assert (found["images"], found["new"], found["to_extract"], found["needs_commit"]) == (20, 20, 20, True)
    assert {path.name for path in store.iterdir()} == {"cache"}


@exercises("--layout")
def test_the_layout_decides_what_the_first_folder_means(capsys, tmp_path, store):
    for split in ("train", "test"):
        toy.pictures(tmp_path / "images" / split, per_class=2)
    toy.picture(tmp_path / "images" / "train" / "loose.png", 77)
    counts = {
        layout: planned(capsys, "--images", tmp_path / "images", "--store", store, *SMALL, "--layout", layout)["images"]
        for layout in ("splits", "classes")
    }
    assert counts == {"splits": 8, "classes": 9}


@exercises("--allow-relabels")
def test_folders_that_label_otherwise_than_the_newest_version_are_believed_where_that_is_allowed(
    capsys, tmp_path, store
):
    (tmp_path / "labels.csv").write_text("path,class\ncats/000.png,one\ndogs/000.png,two\n")
    images = toy.pictures(tmp_path / "images", per_class=1)
    toy.run(images, store, labels=tmp_path / "labels.csv")
    arguments = ("--images", str(images), "--store", str(store), *SMALL)
    toy.adopt_space(images, store, parse(list(arguments))[0].space())
    assert main([*arguments, "--plan"]) == 4
    assert "2 of 2 images differently than version 1" in capsys.readouterr().err
    assert planned(capsys, *arguments, "--allow-relabels")["relabelled"] == 2


@exercises("--exclude", "--relabel")
def test_corrections_leave_out_images_and_change_classes(capsys, images, store, tmp_path):
    review = tmp_path / "review.csv"
    review.write_text("action,path,class\nexclude,cats/001.png,\nrelabel,dogs/002.png,birds\n")
    given = ["--images", images, "--store", store, *SMALL]
    assert planned(capsys, *given)["images"] == 20
    assert planned(capsys, *given, "--exclude", review, "--relabel", review)["images"] == 19
    assert main([*map(str, given), "--plan", "--exclude", str(tmp_path / "none.csv")]) == 2


@pytest.mark.slow
def test_corrections_reach_the_head_and_are_taken_back(pipeline, again, tmp_path):
    images, store = again
    review = tmp_path / "review.csv"
    names = sorted(path.relative_to(images) for path in images.glob("*/*.png"))
    other = next(name.parent.name for name in names[::-1] if name.parent != names[0].parent)
    review.write_text(f"action,path,class\nexclude,{names[0]},\nrelabel,{names[1]},{other}\n")
    given = ["--images", images, "--store", store, *TINY]
    before = pipeline(*given)
    corrected = pipeline(*given, "--exclude", review, "--relabel", review)
    assert (corrected.status, corrected.record["extracted"]) == (0, 0), corrected.stderr
    assert corrected.record["images"] == before.record["images"] - 1
    assert corrected.record["head"] != before.record["head"]
    same = pipeline(*given, "--exclude", review, "--relabel", review)
    assert (same.record["version"], same.record["head"]) == (corrected.record["version"], corrected.record["head"])
    assert "nothing to do" in same.stderr
    back = pipeline(*given)
    assert (back.record["extracted"], back.record["head"]) == (0, before.record["head"])
    assert "1 image that it excluded is back" in back.stderr


@exercises("--labels")
def test_labels_say_which_files_are_images(capsys, images, store, tmp_path):
    (tmp_path / "labels.csv").write_text("path,class\ncats/001.png,dogs\ndogs/002.png,cats\n")
    found = planned(capsys, "--images", images, "--store", store, *SMALL, "--labels", tmp_path / "labels.csv")
    assert (found["images"], found["ignored"]) == (2, 18)


@exercises("--rehash")
def test_rehash_reads_what_the_digest_cache_would_have_told(capsys, images, store, monkeypatch):
    monkeypatch.setattr("storage.source.scan_table.RACY_NS", 0)  # the files are young, and are believed all the same
    arguments = ("--images", images, "--store", store, *SMALL)
    toy.run(images, store)
    toy.adopt_space(images, store, parse([str(a) for a in arguments])[0].space())
    swap_digests(store)
    assert planned(capsys, *arguments)["unchanged"] < 20
    assert planned(capsys, *arguments, "--rehash")["unchanged"] == 20


@exercises("--chunk-size", "--limit")
def test_chunks_are_as_large_and_work_as_limited_as_asked(capsys, images, store):
    found = planned(capsys, "--images", images, "--store", store, *SMALL, "--chunk-size", "3", "--limit", "10")
    assert (found["to_extract"], found["chunks"], found["pending"]) == (10, 4, 20)


def test_a_chunk_size_that_is_not_given_or_null_follows_the_number_of_images(capsys, tmp_path):
    images, config = toy.pictures(tmp_path / "many", per_class=50), tmp_path / "config.yaml"
    config.write_text("chunk_size: null\n")
    arguments = ("--images", images, "--store", tmp_path / "store", *SMALL)
    found = [planned(capsys, *arguments, *more)["chunks"] for more in ((), ("--config", config))]
    assert found == [7, 7]


@exercises("--max-removed-fraction", "--allow-removals")
def test_removals_are_believed_as_far_as_allowed(capsys, images, store):
    arguments = ("--images", images, "--store", store, *SMALL)
    toy.run(images, store)
    toy.adopt_space(images, store, parse([str(a) for a in arguments])[0].space())
    for path in sorted(images.glob("cats/*.png"))[:6]:
        path.unlink()
    assert main([*map(str, arguments), "--plan"]) == 4
    capsys.readouterr()
    assert planned(capsys, *arguments, "--max-removed-fraction", "0.3")["removed"] == 6
    assert planned(capsys, *arguments, "--allow-removals")["removed"] == 6


@exercises("--preprocessing")
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (["--preprocessing", "tf"], "`preprocessing`: vgg16 has its own, caffe; leave it out"),
        (
            ["--backbone", "own.keras"],
            "`preprocessing`: .*own.keras does not say what it expects; choose one of caffe, tf",
        ),
        (["--backbone", "own.keras", "--weights", "random"], "`weights`: .*own.keras has its own weights"),
    ],
)
def test_the_preprocessing_of_a_file_is_declared_and_that_of_a_name_is_not(images, store, said, reason):
    with pytest.raises(InputError, match=reason):
        parse(["--images", str(images), "--store", str(store), *said])


@exercises("--backbone", "--weights", "--image-size", "--pooling", "--dtype", "--precision")
def test_each_part_of_the_feature_space_gives_another_space_and_says_so_in_its_record(images, store, tmp_path):
    weights = toy.weights_file(tmp_path / "seeded.weights.h5", seed=1)
    usual, others = parse(["--images", str(images), "--store", str(store), *SMALL])[0].space(), []
    for flag, value, recorded in [
        ("--backbone", "resnet50", "resnet50"),
        ("--weights", str(weights), None),
        ("--image-size", "64", 64),
        ("--pooling", "max", "max"),
        ("--dtype", "float32", "float32"),
        ("--precision", "mixed_float16", "mixed_float16"),
    ]:
        other = parse(["--images", str(images), "--store", str(store), *SMALL, flag, value])[0].space()
        name = flag[2:].replace("-", "_")
        assert getattr(other.spec, name) != getattr(usual.spec, name)
        assert recorded is None or getattr(other.spec, name) == recorded
        others.append(other.fingerprint)
    assert len({usual.fingerprint, *others}) == 7


@exercises("--config")
def test_a_yaml_key_does_what_the_flag_of_its_name_does(tmp_path):
    flags = {
        "images": "photos",
        "store": "elsewhere",
        "classes": "b,a",
        "chunk_size": 7,
        "learning_rate": 0.5,
        "standardize": False,
        "promote": True,
        "pooling": "avg",
        "steps_per_epoch": 3,
    }
    arguments = []
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        arguments += [flag, str(value)] if not isinstance(value, bool) else [flag if value else f"--no-{flag[2:]}"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(flags))
    assert parse(["--config", str(tmp_path / "run.yaml")]) == parse(arguments) != parse([])


def test_every_parameter_has_one_name_as_flag_as_key_and_in_prefect(tmp_path):
    from flows.pipeline import extract_and_train

    names = set(PipelineOptions.model_fields)
    assert set(extract_and_train.parameters.properties) == names
    for name, field in PipelineOptions.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        (tmp_path / "one.yaml").write_text(yaml.safe_dump({name: default}))
        assert parse(["--config", str(tmp_path / "one.yaml")])[0] == PipelineOptions()


# How images are varied

TURNED = {"rotation_range": 20, "rescale": 1e-05, "brightness_range": [0.5, 1.5]}
VARIED = ("--augment", "{rotation_range: 20}", "--variants", "3")


def ways_to_say(augmentation: dict, folder: Path):
    """The arguments of every way in which the command line takes an augmentation."""
    as_json, as_yaml = json.dumps(augmentation), yaml.safe_dump(augmentation)
    for name, text in (("a.json", as_json), ("a.yaml", as_yaml), ("a.yml", as_yaml)):
        (folder / name).write_text(text)
        yield ["--augment", str(folder / name)]
    for index, value in enumerate((augmentation, as_json, as_yaml, str(folder / "a.yaml"))):
        (folder / f"run-{index}.yaml").write_text(yaml.safe_dump({"augment": value}))
        yield ["--config", str(folder / f"run-{index}.yaml")]
    yield from (["--augment", text] for text in (as_json, as_yaml, json.dumps(augmentation, indent=4)))


@exercises("--augment")
def test_an_augmentation_is_of_one_head_and_one_space_however_it_is_said(first_run, tmp_path):
    images, store, _ = first_run
    rest = ["--images", str(images), "--store", str(store), *TINY, "--variants", "2"]
    found = [parse([*rest, *way])[0] for way in ways_to_say(TURNED, tmp_path)]
    assert set(found) == {found[0]}
    assert found[0].augment.record() == {"rotation_range": 20.0, "brightness_range": [0.5, 1.5]}
    assert found[0].rescale == 1e-05
    version = version_record(latest_version(Store(store, first_run[2].record["fingerprint"])))
    others = {"the same": {**TURNED, "shear_range": 0}, "another": {"rotation_range": 21}, "flat": {"rescale": 1e-05}}
    names = {
        name: options.head_jobs(replace(options.space(), fingerprint=first_run[2].record["fingerprint"]), version)[
            0
        ].name
        for name, options in {
            "one": found[0],
            **{
                name: PipelineOptions(**found[0].model_dump() | {"augment": said, "variants": 1 + (name != "flat")})
                for name, said in others.items()
            },
        }.items()
    }
    assert names["one"] == names["the same"]
    assert len(set(names.values())) == 3


def test_every_field_of_a_feature_space_is_a_parameter():
    assert {field.name for field in fields(FeatureSpec)} - {"maps", "calibration"} == set(FeatureOptions.model_fields)


@exercises("--rescale")
def test_a_rescale_is_of_one_feature_space_however_it_is_said(images, store):
    from flows.pipeline import extract_and_train

    rest = ["--images", str(images), "--store", str(store), *SMALL]
    said = [("--rescale", "0.5"), ("--augment", "rescale: 0.5"), ("--augment", '{"rescale": 0.5}', "--rescale", ".5")]
    found = [parse([*rest, *arguments])[0] for arguments in said]
    assert set(found) == {found[0]}
    assert (found[0].spec.rescale, found[0].augment) == (0.5, None)
    for parameters in (
        {"augment": {"rescale": 0.5}},
        {"augment": "rescale: 0.5", "rescale": None},
        {"rescale": "0.5"},
        *(options.model_dump(include=options.model_fields_set) for options in found),
    ):
        options = PipelineOptions(**extract_and_train.validate_parameters(parameters))
        assert (options.spec.rescale, options.augment) == (0.5, None)
    plain, one, other = (parse([*rest, *more])[0] for more in ((), ("--rescale", "1"), ("--augment", "rescale: 1")))
    assert plain.spec == one.spec == other.spec
    assert len({options.space().fingerprint for options in (plain, found[0])}) == 2


def test_a_run_of_a_deployment_takes_an_augmentation_as_a_mapping_and_as_a_text(tmp_path):
    from prefect.utilities.schema_tools import is_valid_schema, validate

    from flows.pipeline import extract_and_train

    (tmp_path / "a.json").write_text(json.dumps(TURNED))
    schema = extract_and_train.parameters.model_dump()
    is_valid_schema(schema)
    wanted = PipelineOptions(variants=2, augment=json.dumps(TURNED))
    for given in (TURNED, json.dumps(TURNED), yaml.safe_dump(TURNED), str(tmp_path / "a.json")):
        parameters = {"augment": given, "variants": 2}
        assert not validate(parameters, schema, raise_on_error=False, preprocess=False, ignore_required=True)
        # The flow's function has its options of what Prefect made of the parameters.
        assert PipelineOptions(**extract_and_train.validate_parameters(parameters)) == wanted
    assert PipelineOptions(**wanted.model_dump()) == wanted


@exercises("--variants")
def test_a_plan_counts_the_views_of_training_images(capsys, images, store):
    arguments = ("--images", images, "--store", store, *SMALL)
    plain, varied = planned(capsys, *arguments), planned(capsys, *arguments, *VARIED)
    assert plain["views_to_extract"] == plain["to_extract"] == varied["to_extract"] == 20
    digests = [sha256(path.read_bytes()).digest() for path in images.glob("*/*.png")]
    training = sum(derived_split(digest, 0.2) == "train" for digest in digests)
    assert 0 < training < 20
    assert varied["views_to_extract"] == 20 + 2 * training
    assert varied["expected_bytes"] > plain["expected_bytes"]
    assert main([*map(str, arguments), *VARIED, "--plan"]) == 0
    assert f"to extract: 20 images ({20 + 2 * training} views) in 2 chunks" in capsys.readouterr().err


@exercises("--train-on", "--fine-tune", "--fine-tune-epochs", "--fine-tune-learning-rate")
def test_training_on_images_is_another_head_and_fine_tuning_goes_on_from_one(first_run):
    """What comes of it is looked for in test_augmentation.py."""
    images, store, done = first_run
    version = version_record(latest_version(Store(store, done.record["fingerprint"])))

    def jobs(*flags: str):
        options = parse(["--images", str(images), "--store", str(store), *TINY, *flags])[0]
        space = options.space()
        (head,) = options.head_jobs(space, version)
        return head, options.fine_tune_job(space, version, head)

    plain, none = jobs()
    assert (plain.name, none) == (done.record["head"], None)
    assert jobs("--fine-tune-epochs", "9", "--fine-tune-learning-rate", "1")[0].name == plain.name
    on_images = jobs("--train-on", "images")[0]
    assert (on_images.spec.train_on, on_images.name != plain.name) == ("images", True)
    tuned = {}
    for flags in (
        ["--fine-tune", "block5"],
        ["--fine-tune", "block4"],
        ["--fine-tune", "block5", "--fine-tune-epochs", "9"],
        ["--fine-tune", "block5", "--fine-tune-learning-rate", "0.5"],
        ["--fine-tune", "block5", "--augment", "{rotation_range: 20}"],
    ):
        head, model = jobs(*flags)
        assert (head.name, head.promote, model.promote) == (plain.name, "if_better", "never")
        tuned[model.name] = model.spec
    assert len(tuned) == 5
    figures = [(spec.fine_tune, spec.fine_tune_epochs, spec.fine_tune_learning_rate) for spec in tuned.values()]
    assert figures[:4] == [("block5", 5, 1e-5), ("block4", 5, 1e-5), ("block5", 9, 1e-5), ("block5", 5, 0.5)]


# The flow reads the folder again, for itself


def flow_run(environment, images, store, **parameters) -> dict:
    """What the flow comes to without the command before it, over features that are there."""
    from flows.pipeline import extract_and_train

    given = {"images": str(images), "store": str(store), "weights": "random", "image_size": 32, "extract_only": True}
    with server_of(environment):
        return extract_and_train(**given | parameters).line(0)


def test_the_flow_takes_the_layout_that_it_is_given(environment, again):
    images, store = again
    splits = images.with_name("splits")
    splits.mkdir()
    images.rename(splits / "train")
    record = flow_run(environment, splits, store, layout="classes")
    assert (record["images"], record["classes"], record["extracted"]) == (60, 1, 0)


def test_the_flow_takes_the_labels_that_it_is_given(environment, again, tmp_path):
    images, store = again
    rows = [f"cats/{number:03d}.png,class-{number % 3}" for number in range(30)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,class", *rows]))
    labels = str(tmp_path / "labels.csv")
    record = flow_run(environment, images, store, labels=labels, allow_removals=True)
    assert (record["images"], record["classes"], record["relabelled"], record["extracted"]) == (30, 3, 30, 0)


def test_the_flow_reads_all_again_where_it_is_told_to(environment, first_run, tmp_path):
    images, store, _ = first_run  # the pictures themselves: copies would be too young to be believed
    shutil.copytree(store, tmp_path / "store")
    swap_digests(tmp_path / "store")
    assert flow_run(environment, images, tmp_path / "store", rehash=True)["unchanged"] == 60
    swap_digests(tmp_path / "store")
    assert flow_run(environment, images, tmp_path / "store")["unchanged"] < 60


# How it is run and trained: seen in what a run leaves


@pytest.fixture(scope="module")
def run(pipeline, tmp_path_factory):
    """A run with every such flag set to something else than its default: its images, store and record.

    All of it happens in this process, which has TensorFlow already.
    """
    root = tmp_path_factory.mktemp("flags")
    images, store = toy.pictures(root / "images", per_class=30), root / "elsewhere"
    (root / "broken.png").write_bytes(b"not a picture")
    (images / "cats" / "broken.png").symlink_to(root / "broken.png")
    given = (
        *("--images", images, "--store", store, *SMALL, "--max-bad-fraction", "0.5"),
        *("--classes", "dogs,cats", "--validation-fraction", "0.5", "--engine", "tensorflow", "--workers", "1"),
        *("--format", "npz", "--chunk-size", "16", "--head", "linear", "--epochs", "9", "--batch-size", "8"),
        *("--optimizer", "adam", "--learning-rate", "1e-30", "--steps-per-epoch", "2", "--validation-steps", "1"),
        *("--class-weight", "balanced", "--sampling", "bootstrap", "--no-standardize", "--shuffle-memory-mb", "3"),
        *("--seed", "5", "--single-writer", "--patience", "1", "--exif", "apply", "--outside-links"),
        *("--sixteen-bit", "scale"),
    )
    done = pipeline(*given)
    assert done.status == 0, done.stderr
    assert "in 4 chunks on tensorflow" in done.stderr
    return images, store, done


@pytest.fixture(scope="module")
def head(run) -> dict:
    _, store, done = run
    return json.loads((store / "heads" / done.record["head"] / "head.json").read_text())


@exercises("--store", "--format", "--engine")
def test_shards_of_the_format_made_by_the_engine_lie_in_the_store(run):
    _, store, done = run
    where = Store(store, done.record["fingerprint"])
    version = latest_version(where)
    assert len(version.shards) == 4
    for ref in version.shards.values():
        assert ref.name.endswith(".npz")
        assert Shard(where, ref).metadata["engine"].startswith("tensorflow ")


@exercises("--exif", "--sixteen-bit")
def test_pictures_that_are_turned_or_scaled_are_a_feature_space_of_their_own(run, first_run):
    """What is turned or scaled, and how, is tested in tests/vision/backbones/test_kinds.py."""
    assert read_spec(Store(run[1], run[2].record["fingerprint"]))["exif"] == "apply"
    assert read_spec(Store(first_run[1], first_run[2].record["fingerprint"]))["exif"] == "ignore"
    assert read_spec(Store(run[1], run[2].record["fingerprint"]))["sixteen_bit"] == "scale"
    assert "sixteen_bit" not in read_spec(Store(first_run[1], first_run[2].record["fingerprint"]))


@exercises("--outside-links")
def test_a_link_that_leads_out_is_an_image_where_that_is_asked_for(run):
    assert (run[2].record["images"], run[2].record["ignored"]) == (61, 0)


@exercises("--single-writer")
def test_a_single_writer_is_declared_for_good_and_only_where_told(run, first_run):
    """What the declaration does is tested without hard links in tests/storage/backend/test_atomic.py."""
    assert (run[1] / "single-writer").exists()
    assert not (first_run[1] / "single-writer").exists()


@exercises("--runner", "--workers")
def test_an_inline_run_starts_no_child_writes_the_same_shards_and_says_what_does_not_hold(
    pipeline, first_run, tmp_path
):
    """The other run has as many children as it was told."""
    images, store, inline = first_run
    local = pipeline(
        *("--images", images, "--store", tmp_path / "store", *TINY),
        *("--runner", "local", "--workers", "1", "--extract-only"),
    )
    assert local.status == 0, local.stderr
    caution = CAUTION.replace("`runner=inline`", "--runner inline")  # as the command line writes a parameter
    assert inline.stderr.count(caution) == 1
    assert caution not in local.stderr
    same = "version", "images", "extracted", "quarantined", "fingerprint"
    assert {key: inline.record[key] for key in same} == {key: local.record[key] for key in same}
    shards = [
        sorted(path.relative_to(root) for path in root.glob("*/shards/*/*")) for root in (store, tmp_path / "store")
    ]
    assert shards[0] == shards[1]
    assert shards[0], "shards are named by their bytes"
    assert not list(store.rglob("worker-*.log"))
    assert [path.name for path in (tmp_path / "store/cache/logs/extraction").iterdir()] == ["worker-0.log"]


def test_an_inline_run_has_one_worker_and_refuses_more(images, capsys):
    assert main(["--images", str(images), "--runner", "inline", "--workers", "2"]) == 2
    assert "--workers: --runner inline has one worker, got" in capsys.readouterr().err


@exercises("--validation-fraction")
def test_the_share_held_out_is_the_one_asked_for(run):
    _, store, done = run
    files = latest_version(Store(store, done.record["fingerprint"])).read_files(
        Store(store, done.record["fingerprint"])
    )
    readable = [row for row in files.to_pylist() if row["digest"]]
    assert [row["split"] for row in readable] == [derived_split(row["digest"], 0.5) for row in readable]
    assert [row["split"] for row in readable] != [derived_split(row["digest"], 0.2) for row in readable]


@exercises("--max-bad-fraction")
def test_a_larger_budget_lets_a_broken_image_pass(run):
    assert (run[2].record["quarantined"], run[2].record["head"] is not None) == (1, True)


@exercises("--classes", "--seed", "--head", "--optimizer", "--batch-size", "--shuffle-memory-mb", "--sampling")
@exercises(
    "--class-weight",
    "--standardize",
    "--learning-rate",
    "--steps-per-epoch",
    "--patience",
    "--epochs",
    "--validation-steps",
)
def test_the_head_is_made_as_asked(head):
    """That each of these changes the training is shown where the training is tested."""
    assert head["head"] == {
        "classes": ["dogs", "cats"],
        "kind": "linear",
        "epochs": 9,
        "steps_per_epoch": 2,
        "validation_steps": 1,
        "batch_size": 8,
        "optimizer": "adam",
        "learning_rate": 1e-30,
        "patience": 1,
        "class_weight": "balanced",
        "sampling": "bootstrap",
        "standardize": False,
        "shuffle_memory_mb": 3,
    }
    assert (head["seed"], head["classes"]) == (5, ["dogs", "cats"])
    # No float32 weight moves by so short a step: a plateau from the first epoch on.
    assert len({logs["val_loss"] for logs in head["history"]}) == 1
    assert len(head["history"]) == 2


@exercises("--checkpoint-seconds", "--read-threads")
def test_how_a_training_is_carried_out_reaches_its_job(first_run):
    """What comes of both is tested where trainings are killed, tests/workers/jobs/test_resume.py."""
    images, store, _ = first_run
    options = parse(["--images", str(images), "--store", str(store), *TINY, "--checkpoint-seconds", "5"])[0]
    other = parse(["--images", str(images), "--store", str(store), *TINY, "--read-threads", "7"])[0]
    space = options.space()
    version = version_record(latest_version(space.store))
    assert (
        options.head_jobs(space, version)[0].checkpoint_seconds,
        other.head_jobs(space, version)[0].read_threads,
    ) == (5, 7)
    assert options.head_jobs(space, version)[0].name == other.head_jobs(space, version)[0].name


@exercises("--head-pooling", "--l2")
def test_the_pooling_and_the_regularisation_of_a_head_are_part_of_its_name(first_run):
    """What comes of both is tested in tests/vision/training/test_convex.py."""
    images, store, _ = first_run

    def job(*flags: str):
        options = parse(["--images", str(images), "--store", str(store), *TINY, *flags])[0]
        space = options.space()
        return options.head_jobs(space, version_record(latest_version(space.store)))[0]

    logistic = ("--head", "logistic")
    found = [job(*logistic), job(*logistic, "--l2", "0.5"), job(*logistic, "--head-pooling", "max")]
    assert len({each.name for each in found}) == 3
    assert (found[1].spec.l2, found[2].spec.head_pooling) == (0.5, "max")
    assert job("--l2", "0.5", "--head-pooling", "max").name == job().name


@pytest.mark.slow
@exercises("--initial-epoch")
def test_a_later_epoch_needs_the_head_that_it_goes_on_from(capsys, again, pipeline):
    images, store = again
    arguments = ("--images", images, "--store", store, *TINY)
    assert main([*map(str, arguments), "--epochs", "9", "--initial-epoch", "5"]) == 2
    assert "no head was trained for 5 epochs with the same other options on these images" in capsys.readouterr().err
    assert main([*map(str, arguments), "--epochs", "3", "--initial-epoch", "3"]) == 2
    assert "--initial-epoch: 3 must be less than --epochs, which is 3" in capsys.readouterr().err
    epochs = json.loads(
        (store / "heads" / (store / "heads" / "current").read_text().strip() / "head.json").read_text()
    )["head"]["epochs"]
    done = pipeline(*arguments, "--epochs", epochs + 2, "--initial-epoch", epochs)
    assert (done.status, done.record["epochs"]) == (0, 2), done.stderr


@pytest.mark.slow
@exercises("--force-retrain", "--extract-only")
def test_a_head_is_trained_again_where_asked(pipeline, again):
    images, store = again
    arguments = ("--images", images, "--store", store, *TINY)
    current = (store / "heads" / "current").read_text()
    head_json = store / "heads" / current.strip() / "head.json"
    before = head_json.stat().st_mtime_ns
    assert pipeline(*arguments, "--force-retrain", "--extract-only").record["head"] is None
    assert head_json.stat().st_mtime_ns == before
    forced = pipeline(*arguments, "--force-retrain")
    assert (forced.status, forced.record["head"]) == (0, current.strip()), forced.stderr
    assert head_json.stat().st_mtime_ns > before


@pytest.mark.slow
@exercises("--promote")
def test_a_head_that_does_worse_is_made_the_current_one_only_where_asked(pipeline, again):
    images, store = again
    arguments = ("--images", images, "--store", store, *TINY, "--epochs", "1", "--learning-rate", "1e-30", "--seed")
    runs = (pipeline(*arguments, seed) for seed in range(9))
    worse = next(done for done in runs if not done.record["promoted"])
    assert (store / "heads" / "current").read_text().strip() != worse.record["head"]
    seed = json.loads((store / "heads" / worse.record["head"] / "head.json").read_text())["seed"]
    promoted = pipeline(*arguments, seed, "--promote")
    assert (promoted.status, promoted.record["head"], promoted.record["promoted"]) == (0, worse.record["head"], True)
    assert (store / "heads" / "current").read_text().strip() == worse.record["head"]


@pytest.mark.slow
@exercises("--wait")
def test_a_run_waits_for_another_as_long_as_it_was_told(pipeline, again):
    images, store = again
    toy.picture(images / "cats" / "new.png", seed=4444)
    code = f"""
import time
from pathlib import Path
from storage.backend.lock import hold
with hold(Path({str(store)!r})):
    print("held", flush=True)
    time.sleep(4)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        assert holder.stdout.readline() == "held\n"
        done = pipeline("--images", images, "--store", store, *TINY, "--extract-only", "--wait", "100")
        assert (done.status, done.record["extracted"]) == (0, 1), done.stderr
    finally:
        holder.kill()
        holder.communicate()


def test_no_flag_is_forgotten():
    flags = {f"--{name.replace('_', '-')}" for name in PipelineOptions.model_fields} | {"--config", "--plan"}
    assert flags == EXERCISED
