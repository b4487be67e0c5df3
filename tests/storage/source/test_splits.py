import pytest

from storage.source.splits import splits_of, stems_of

TRAIN = ("train", "Train", "TRAIN", " train ", "Training", "training_set", "train-data", "trainset", "TrainingData")
TRAIN = (
    *TRAIN,
    "train2017",
    "1_train",
    "train_images",
    "images-train",
    "Training Images",
    "trn",
    "trainval",
    "train.0",
    "TrainSet",
    "ImagesTrain",
)
VALIDATION = ("validation", "val", "valid", "Validation", "VALID", "val_set", "valset", "dev", "Dev", "development")
TEST = ("test", "Testing", "TEST", "test_set", "test1", "testset", "tst", "Test Images", "test2017", "tests")
CLASSES = ("trainers", "test_tubes", "Valencia", "trains", "contest", "valid_passport", "devil", "invalid", "evaluator")
CLASSES = (*CLASSES, "cats", "data", "set", "1", "", "-", "train_station", "sports_training", "testament", "valley")


@pytest.mark.parametrize(("names", "split"), [(TRAIN, "train"), (VALIDATION, "validation"), (TEST, "test")])
def test_a_split_is_known_in_any_case_and_by_its_usual_names(names, split):
    assert splits_of(names) == dict.fromkeys(names, split)


def test_a_name_that_merely_contains_a_split_is_none():
    assert splits_of(CLASSES) == {}


@pytest.mark.parametrize("name", ["eval", "Evaluation", "eval_set", "holdout", "hold-out", "held out"])
def test_an_evaluation_set_is_for_validation_unless_another_folder_is(name):
    assert splits_of(["train", name])[name] == "validation"
    assert splits_of(["train", name, "test"])[name] == "validation"
    assert splits_of(["train", "dev", name])[name] == "test"


def test_a_split_at_either_end_of_a_name_leaves_the_rest():
    names = ["seg_train", "Seg_Test", "train_cats", "cats-val", "train", "cats", "seg_pred", "old test set", "trainA"]
    assert stems_of(names) == {
        "seg_train": ("seg", "train"),
        "Seg_Test": ("seg", "test"),
        "train_cats": ("cats", "train"),
        "cats-val": ("cats", "validation"),
        "old test set": ("old", "test"),
        "trainA": ("a", "train"),
    }
