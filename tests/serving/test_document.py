"""The OpenAPI document says what the server does: schemathesis makes requests of it, and checks each answer against it."""

import subprocess
import sys

import pytest

from tests.serving.conftest import options, serving

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef"
# A file of random bytes is no image and is refused, which the document allows but this check of schemathesis does not.
LEFT_OUT = "positive_data_acceptance"


@pytest.mark.parametrize("token", [None, TOKEN], ids=["open", "with a token"])
def test_the_server_answers_as_its_document_says_and_never_fails(golden, tmp_path, token):
    with serving(options(golden), token) as server:
        words = ["run", f"{server.url}/openapi.json", "--exclude-checks", LEFT_OUT, "--phases", "coverage,fuzzing"]
        words += ["--seed", "7", "--max-examples", "100", "--generation-database", "none", "--no-color"]
        words += ["--header", f"Authorization: Bearer {TOKEN}"] if token else []
        command = [sys.executable, "-m", "schemathesis.cli", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 selected / 5 total" in done.stdout
