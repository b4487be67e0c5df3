"""Flags, files and mistakes: each bad input is one line with the way out, and the contracted status."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import h5py
import pytest
import yaml

from flows.cli import command
from flows.options.demo import write_digits
from flows.options.flat import checked
from flows.options.maintenance import MaintenanceOptions
from flows.options.pipeline import PipelineOptions
from flows.options.study import BatchSizeStudyOptions
from flows.options.watch import WatchOptions
from flows.preflight.pipeline import check_pipeline
from flows.registry import PIPELINE
from storage.errors import InputError
from tests import toy
from tests.flows.conftest import PROJECT
from workers.machine import Cores
from workers.runners.warm_up import WarmUp

TINY = ["--weights", "random", "--image-size", "32"]
main = partial(command.main, PIPELINE)
parse = partial(command.parse, PIPELINE)


def complaint(capsys, *arguments) -> tuple[int, str]:
    """Exit status and the one line of the error."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    return status, line


def test_a_missing_folder(capsys, tmp_path):
    status, line = complaint(capsys, "--images", tmp_path / "none", *TINY)
    assert (status, "there is no folder" in line) == (2, True)


def test_a_file_for_a_folder(capsys, tmp_path):
    status, line = complaint(capsys, "--images", toy.picture(tmp_path / "one.png", 1), *TINY)
    assert (status, "is a file" in line) == (2, True)


def test_an_empty_folder(capsys, tmp_path):
    (tmp_path / "images").mkdir()
    status, line = complaint(capsys, "--images", tmp_path / "images", "--store", tmp_path / "store", *TINY)
    assert (status, "no images in" in line, "expected class folders" in line) == (2, True, True)


def test_images_without_a_class_are_named_as_the_reason(capsys, tmp_path):
    toy.picture(tmp_path / "images" / "loose.png", 1)
    status, line = complaint(capsys, "--images", tmp_path / "images", "--store", tmp_path / "store", *TINY)
    assert (status, "1 file without an image or a class" in line) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--colour", "red"], "--colour"),
        (["--pooling", "median"], "'none', 'avg' or 'max'"),
        (["--image-size", "16"], "--image-size: vgg16 needs at least 32 pixels, got 16"),
        (["--image-size", "31", "--backbone", "resnet50"], "resnet50 needs at least 32 pixels, got 31"),
        (["--epochs", "many"], "--epochs"),
        (["--chunk-size", "65536"], "65535"),
        (["--validation-fraction", "1.5"], "less than or equal to 1"),
        (["--backbone", "vgg61"], "docs/backbones.md, for example vgg19, vgg16"),
        (["--epoch", "3"], "--epoch"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_unknown_flags_and_values_are_refused(capsys, arguments, expected):
    status, line = complaint(capsys, "--images", "x", *arguments)
    assert (status, expected in line) == (2, True), line


@pytest.mark.parametrize("model", [PipelineOptions, MaintenanceOptions, BatchSizeStudyOptions, WatchOptions])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", float("nan"), float("inf")], ids=repr)
def test_every_number_of_every_command_is_finite(model, value):
    names = [name for name, field in model.model_fields.items() if "float" in str(field.annotation)]
    assert names
    for name in names:
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')}: .*, got {value!r}"):
            checked(model, {name: value})


def test_weights_of_another_architecture(capsys, images, tmp_path):
    path = tmp_path / "other.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layers/dense/vars").create_dataset("0", data=[[1.0]])
    status, line = complaint(capsys, "--images", images, "--store", tmp_path / "store", "--weights", path)
    assert (status, "does not fit vgg16" in line, str(path) in line) == (2, True, True)


def test_weights_that_are_no_hdf5(capsys, images, tmp_path):
    path = tmp_path / "broken.weights.h5"
    path.write_bytes(b"nothing of the kind")
    status, line = complaint(capsys, "--images", images, "--store", tmp_path / "store", "--weights", path)
    assert (status, "cannot be read as HDF5" in line) == (2, True)


def test_weights_that_are_not_there(capsys, images, tmp_path):
    status, line = complaint(capsys, "--images", images, "--store", tmp_path / "store", "--weights", tmp_path / "no.h5")
    assert (status, "no.h5 cannot be read: No such file" in line) == (2, True)


def test_a_store_of_an_unknown_format(capsys, images, store):
    toy.run(images, store)
    space = toy.space(images, store).store.space
    options, _ = parse(["--images", str(images), "--store", str(store), *TINY])
    space.rename(store / options.space().fingerprint)
    record = store / options.space().fingerprint / "space.json"
    record.write_text(json.dumps({"format_version": 99, "spec": {}}))
    status, line = complaint(capsys, "--images", images, "--store", store, *TINY)
    assert (status, "format_version 99" in line, "another --store" in line) == (2, True, True)


def test_a_store_on_a_path_that_is_a_file(capsys, images, tmp_path):
    (tmp_path / "store").write_text("")
    status, line = complaint(capsys, "--images", images, "--store", tmp_path / "store", *TINY)
    assert (status, str(tmp_path / "store") in line) == (1, True), line


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("images: photos\nbatch-size: 32\nepochs: 7\nstandardize: false\nclasses: dog,cat\n")
    options, only_plan = parse(["--config", str(path), "--epochs", "9"])
    assert not only_plan
    assert (options.batch_size, options.epochs, options.standardize) == (32, 9, False)
    assert options.classes == ("dog", "cat")
    assert options.seed == PipelineOptions().seed


@pytest.mark.parametrize("content", ["colour: red", "- a\n- b", "{", "epochs: many"])
def test_a_file_that_says_nothing_we_know_is_refused(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(InputError):
        parse(["--config", str(path)])


def test_a_plan_says_what_a_run_would_do_and_does_nothing(capsys, images, store):
    status = main(["--images", str(images), "--store", str(store), *TINY, "--plan"])
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert status == 0
    assert (record["new"], record["to_extract"], record["chunks"], record["expected_seconds"]) == (20, 20, 2, None)
    assert record["expected_bytes"] > 0
    assert "nothing changed (dry run)" in captured.err
    assert {path.name for path in store.iterdir()} <= {"cache"}


def test_a_plan_shows_images_by_split_and_class_and_what_is_likely_a_mistake(capsys, images, store):
    toy.picture(images / "Cats" / "1.png", 77)
    assert main(["--images", str(images), "--store", str(store), *TINY, "--plan"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].split() == ["found", "images", "train", "validation", "all"]
    assert [line.split()[0] for line in lines[2:6]] == ["Cats", "cats", "dogs", "all"]
    assert "'Cats', 'cats'" in "".join(line for line in lines if line.startswith("warning: "))


def test_a_class_that_no_image_has_ends_a_run_before_it_begins(capsys, images, store):
    status, line = complaint(capsys, "--images", images, "--store", store, *TINY, "--classes", "cats, doves")
    assert (status, "'doves'" in line, "classes of the images: 'cats', 'dogs'" in line) == (2, True, True)


def test_one_class_alone_ends_a_run_before_it_extracts_what_cannot_be_trained_on(capsys, images, store):
    given = ("--images", images, "--store", store, *TINY, "--classes", "cats")
    status, line = complaint(capsys, *given)
    assert (status, "only 'cats'" in line, "--extract-only" in line) == (2, True, True)
    assert main([str(word) for word in (*given, "--extract-only", "--plan")]) == 0


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--epochs", "1e3", "a valid integer"),
        ("--epochs", "1.5", "a valid integer"),
        ("--epochs", "9" * 20, f"less than or equal to {2**31 - 1}"),
        ("--steps-per-epoch", "9" * 20, f"less than or equal to {2**31 - 1}"),
        ("--fine-tune-epochs", "9" * 20, f"less than or equal to {2**31 - 1}"),
        ("--wait", "long", "a valid number"),
        ("--optimizer", "lion", "'rmsprop', 'adam' or 'sgd'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_is_expected_and_no_more(capsys, flag, value, expected):
    status, line = complaint(capsys, "--images", "x", flag, value)
    assert (status, line) == (2, f"error: {flag}: expected {expected}, got {value!r}")


def test_nothing_to_do_within_a_limit_tells_how_many_images_wait(capsys, images, store):
    given = ["--images", str(images), "--store", str(store), *TINY, "--extract-only"]
    toy.run(images, store, limit=8)
    toy.adopt_space(images, store, parse(given)[0].space())
    capsys.readouterr()
    assert main([*given, "--limit", "0"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["pending"] == 12
    assert err.splitlines()[-1] == "nothing to do: 12 of 20 images wait for a run without --limit 0"


def test_help_names_every_parameter(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    text = capsys.readouterr().out
    assert leaving.value.code == 0
    for name in PipelineOptions.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_a_prefect_parameter_is_flat_and_partial():
    from flows.pipeline import extract_and_train

    properties = extract_and_train.parameters.properties
    assert set(properties) == set(PipelineOptions.model_fields)
    assert extract_and_train.parameters.required == []
    validated = extract_and_train.validate_parameters({"images": "photos", "epochs": "5"})
    assert PipelineOptions(**validated) == PipelineOptions(images="photos", epochs=5)


def test_a_prefect_parameter_is_described_as_its_flag_is():
    from flows.pipeline import extract_and_train

    described = {name: schema.get("description") for name, schema in extract_and_train.parameters.properties.items()}
    assert described == {name: field.description for name, field in PipelineOptions.model_fields.items()}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("dog,cat", ("dog", "cat")),
        ("dog, cat ", ("dog", "cat")),
        ("[dog, cat]", ("dog", "cat")),
        ("[1, 0]", ("1", "0")),
        ("'1,0'", ("1", "0")),
    ],
)
def test_classes_are_the_same_however_they_are_written(tmp_path, written, meant):
    from prefect.utilities.schema_tools import validate

    from flows.pipeline import extract_and_train

    (tmp_path / "run.yaml").write_text(f"classes: {written}\n")
    assert parse(["--config", str(tmp_path / "run.yaml")])[0].classes == meant
    given = {"classes": yaml.safe_load(written)}
    assert extract_and_train.validate_parameters(given)["classes"] == meant
    schema = extract_and_train.parameters.model_dump_for_openapi()
    validate(given, schema, raise_on_error=True)  # as the server does for a deployment


@pytest.mark.parametrize("key", ["classes: {}", "epochs: 2\nclasses: {}\n", "images: &names a\nclasses: {}"])
def test_a_list_of_classes_in_yaml_stays_as_it_was_typed(tmp_path, key):
    typed = "[00000, 010, yes, No, 1.0, 1e3, ~, null, 0x1F, 12:30:00, 2020-01-01, '7', cat, caf\u00e9, 1_000]"
    (tmp_path / "run.yaml").write_text(key.format(typed))
    expected = "00000 010 yes No 1.0 1e3 ~ null 0x1F 12:30:00 2020-01-01 7 cat caf\u00e9 1_000"
    assert parse(["--config", str(tmp_path / "run.yaml")])[0].classes == tuple(expected.split())
    (tmp_path / "run.yaml").write_text("classes:\n- 010\n- on\n")
    assert parse(["--config", str(tmp_path / "run.yaml")])[0].classes == ("010", "on")


@pytest.mark.parametrize("written", ["7", "[cat, [dog]]", "{cat: dog}"])
def test_classes_that_are_no_names_are_refused(capsys, tmp_path, written):
    (tmp_path / "run.yaml").write_text(f"classes: {written}\n")
    status, line = complaint(capsys, "--images", "x", "--config", tmp_path / "run.yaml")
    assert (status, "--classes" in line) == (2, True), line


def test_the_demo_digits_are_written_once(tmp_path, monkeypatch):
    write_digits(tmp_path / "digits")
    paths = sorted((tmp_path / "digits").glob("*/*.png"))
    assert len(paths) == 1797
    assert {path.parent.name for path in paths} == set("0123456789")
    before = [path.stat().st_mtime_ns for path in paths]
    write_digits(Path(tmp_path / "digits"))
    assert [path.stat().st_mtime_ns for path in paths] == before


@pytest.mark.parametrize("flag", ["--store", "--labels", "--classes", "--weights"])
def test_the_demo_never_runs_into_what_somebody_named(capsys, tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    status, line = complaint(capsys, flag, "here")
    assert (status, "folder of images is missing" in line, flag in line) == (2, True, True)
    assert list(tmp_path.iterdir()) == []


def test_a_store_where_it_would_be_taken_for_a_class_is_refused(capsys, images):
    status, line = complaint(capsys, "--images", images, "--store", images / "store", *TINY)
    assert (status, "would be read as a class" in line) == (2, True)
    parse(["--images", str(images), "--store", str(images / ".store"), *TINY])[0].space()


def test_a_seed_that_keras_cannot_take_is_refused_before_hours_of_work(capsys):
    status, line = complaint(capsys, "--images", "x", "--seed", str(2**32 - 1))
    assert (status, "--seed" in line) == (2, True)


def test_an_error_that_nobody_foresaw_keeps_its_traceback(images, store):
    code = """
import sys
from flows.cli import command
from flows.preflight import pipeline
from flows.preflight.pipeline import check_pipeline
from flows.registry import PIPELINE
pipeline.make_plan = lambda *_: {}["unforeseen"]
sys.exit(command.main(PIPELINE, sys.argv[1:]))
"""
    call = [sys.executable, "-c", code, "--images", images, "--store", store, *TINY]
    done = subprocess.run(call, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: 'unforeseen'"


def test_the_digits_of_the_demo_are_there_whole_or_not_at_all(tmp_path):
    (tmp_path / "digits.writing" / "3").mkdir(parents=True)  # of a run that was killed
    (tmp_path / "digits.writing" / "3" / "0000.png").write_bytes(b"half")
    write_digits(tmp_path / "digits")
    assert len(list((tmp_path / "digits").glob("*/*.png"))) == 1797
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


@pytest.mark.parametrize("flag", ["--images", "--store", "--labels", "--weights"])
def test_a_path_that_is_not_utf8_is_refused_with_a_way_out(capsys, tmp_path, flag):
    status, line = complaint(capsys, "--images", tmp_path, *TINY, flag, tmp_path / os.fsdecode(b"caf\xe9"))
    assert (status, flag in line, "use a link" in line) == (2, True, True)
    line.encode()


@pytest.mark.parametrize(("flag", "value"), [("--images", "photos"), ("--store", None), ("--labels", "photos.csv")])
def test_a_path_below_a_working_folder_that_is_not_utf8_is_refused_with_a_way_out(
    capsys, tmp_path, monkeypatch, flag, value
):
    here = tmp_path / os.fsdecode(b"caf\xe9")
    here.mkdir()
    monkeypatch.chdir(here)
    given = {"--images": str(tmp_path / "photos"), "--store": str(tmp_path / "store")} | {flag: value}
    words = [word for pair in given.items() if pair[1] for word in pair]
    status, line = complaint(capsys, *words, *TINY)
    assert (status, flag in line, "use a link" in line) == (2, True, True)
    assert list(here.iterdir()) == []


def test_a_working_folder_that_is_not_utf8_does_no_harm_to_paths_that_lie_elsewhere(
    capsys, images, store, tmp_path, monkeypatch
):
    here = tmp_path / os.fsdecode(b"caf\xe9")
    here.mkdir()
    monkeypatch.chdir(here)
    assert main(["--images", str(images), "--store", str(store), *TINY, "--plan"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 20


@pytest.mark.parametrize("name", ["images", "store", "labels", "weights"])
def test_a_tilde_in_a_file_of_parameters_is_the_home_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.yaml").write_text(f"{name}: ~/photos\n")
    assert getattr(parse(["--config", "~/config.yaml"])[0], name) == str(tmp_path / "home" / "photos")
    (tmp_path / "~").mkdir()  # a folder of that very name is the one that is meant
    assert getattr(parse([f"--{name}=~/photos"])[0], name) == str(tmp_path / "~" / "photos")


def test_a_tilde_leads_to_no_place_outside_of_the_roots(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXTRACT_AND_TRAIN_IMAGE_ROOTS", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    with pytest.raises(InputError, match="ROOTS"):
        parse(["--images=~/photos"])


@pytest.mark.parametrize(
    ("arguments", "cores", "loaded"),
    [
        ((), 2, [("extraction", 2)]),
        ((), 4, [("extraction", 3), ("training", 1)]),
        (("--extract-only",), 4, [("extraction", 3)]),
        (("--workers", "1"), 2, [("extraction", 1)]),
        (("--runner", "inline"), 2, [("extraction", 0)]),
    ],
)
def test_the_children_that_a_run_needs_load_while_prefect_starts(tmp_path, monkeypatch, arguments, cores, loaded):
    monkeypatch.setattr("workers.devices.cores", lambda: Cores(cores, cores))
    monkeypatch.setattr("flows.options.pipeline.available_cores", lambda: cores)
    events = []
    monkeypatch.setattr(WarmUp, "begin", lambda self: events.append((self.logs.name, len(self.slots))))

    def start_prefect(flow, store):
        events.append("Prefect")
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "load_flow", start_prefect)
    images = toy.pictures(tmp_path / "images", per_class=24)
    words = ["--images", images, "--store", tmp_path / "store", "--chunk-size", "16", *TINY, *arguments]
    assert main([str(word) for word in words]) == 130
    assert events == [*loaded, "Prefect"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_chained", [True, False])
def test_an_interrupt_stays_one_whatever_a_library_makes_of_it(capsys, images, store, monkeypatch, number, is_chained):
    def start_prefect(flow, store):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:  # pydantic's serialiser does so
            told = (
                RuntimeError("no answer") if is_chained else RuntimeError("Error calling `model`: KeyboardInterrupt:")
            )
            raise told from (error if is_chained else None)

    monkeypatch.setattr(WarmUp, "begin", lambda self: None)
    monkeypatch.setattr(command, "load_flow", start_prefect)
    assert main(["--images", str(images), "--store", str(store), *TINY]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"error: interrupted; {PIPELINE.interrupted}\n")


def test_an_error_without_an_interrupt_is_none(capsys):
    def work(arguments, began):
        raise RuntimeError("KeyboardInterrupt")

    assert command.finish(work, []) == 1
    assert capsys.readouterr().err.endswith("error: KeyboardInterrupt\n")


@pytest.mark.parametrize("reason", ["flows.options.pipeline.is_damaged", "flows.options.pipeline.must_measure"])
def test_no_child_loads_an_engine_before_its_run_has_decided_on_it(tmp_path, monkeypatch, reason):
    monkeypatch.setattr(reason, lambda *_: True)
    images = toy.pictures(tmp_path / "images")
    found = check_pipeline(PipelineOptions(images=str(images), store=str(tmp_path / "store"), weights="random"))
    assert found.children == ()
