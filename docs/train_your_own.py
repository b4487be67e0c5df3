"""A training of one's own on the features of a store: Keras as always, no Prefect, whatever the memory.

    python docs/train_your_own.py STORE

The same stream trains with any loop: `open_split(...).epochs()` is a plain generator of numpy batches without an end,
`open_split(...).batches(epoch, first_step)` goes on anywhere, and `batches(..., reader=r, readers=R)` is every R-th batch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # not needed where the project is installed

import keras

from storage.reading import open_split
from vision.batches import epochs_dataset
from vision.training.statistics import balanced_weights


def main(store: str) -> float:
    training = open_split(store, "train", batch_size=64, seed=0, memory_mb=256)
    validation = open_split(store, "validation", batch_size=64, seed=None)
    classes = training.table.classes
    model = keras.Sequential(
        [
            keras.Input(training.kind.shape),
            *(
                [keras.layers.GlobalAveragePooling2D()] if len(training.kind.shape) > 1 else []
            ),  # else the store has pooled
            keras.layers.Dense(len(classes), activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    weights = balanced_weights(training.class_counts())  # of each sample, the third element of a batch
    model.fit(
        epochs_dataset(training, weights),
        steps_per_epoch=training.steps,
        epochs=5,
        validation_data=epochs_dataset(validation),
        validation_steps=validation.steps,
        verbose=0,
    )
    loss, accuracy = model.evaluate(epochs_dataset(validation), steps=validation.steps, verbose=0)
    print(f"{len(training.table)} images of {', '.join(classes)}: validation accuracy {accuracy:.3f}, loss {loss:.3f}")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1])
