"""Write the golden store, which later code has to find nothing to do for: python -m tests.golden.write FOLDER

FOLDER gets `images/`, `store/` and `options.json`, the command lines for which the store has everything.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests import toy
from tests.test_layers import PROJECT

SPACE = ["--weights", "random", "--image-size", "32", "--pooling", "avg", "--max-bad-fraction", "0.5"]
TRAINING = ["--head", "linear", "--epochs", "2", "--batch-size", "4"]
PLAIN = [*SPACE, *TRAINING]
VARIED = [*PLAIN, "--variants", "2", "--augment", '{"horizontal_flip": true}']
BEGUN = [*SPACE, "--head", "linear", "--epochs", "100", "--batch-size", "4", "--seed", "1"]


def main(folder: Path) -> None:
    images, store = folder / "images", folder / "store"
    toy.pictures(images, per_class=10)
    (images / "cats" / "broken.png").write_bytes((images / "cats" / "000.png").read_bytes()[:100])
    (images / "cats" / "twin.png").write_bytes((images / "cats" / "000.png").read_bytes())
    command = [sys.executable, str(PROJECT / "flows" / "pipeline.py"), "--images", str(images), "--store", str(store)]
    subprocess.run([*command, *PLAIN, "--format", "npz"], check=True)
    for number in range(4):
        toy.picture(images / "dogs" / "more" / f"{number}.png", seed=5000 + number)
    subprocess.run([*command, *PLAIN], check=True)
    subprocess.run([*command, *VARIED], check=True)
    interrupt(subprocess.Popen([*command, *BEGUN, "--checkpoint-seconds", "0"]), store)
    # Costs only time, or names this machine, or is for people.
    for left in [store / "cache", *store.glob("heads/*/logs/train"), *store.glob("heads/*/logs/validation")]:
        shutil.rmtree(left)
    for left in [store / "lock", *store.glob("heads/*/report.html")]:
        left.unlink()
    (folder / "options.json").write_text(
        json.dumps({"plain": PLAIN, "varied": VARIED, "begun": BEGUN}, indent=1) + "\n"
    )


def interrupt(run: subprocess.Popen, store: Path) -> None:
    while not list(store.glob("heads/*/checkpoint.npz")):
        time.sleep(0.1)
    os.kill(run.pid, signal.SIGINT)
    run.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
