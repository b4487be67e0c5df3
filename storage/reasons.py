"""Reason codes: why an image cannot be used. A store keeps them and a run counts them.

`vision/pixels/decode.py` raises the byte faults, `storage/source/listing.py` and `workers/jobs/extract.py` the file
faults, and `workers/children/watchdog.py` the process faults. tests/workers/test_reasons.py checks that they agree.
"""

# Permanent faults: the same bytes always fail. A version keeps the code, and no run retries the image unless asked.
BYTE_FAULTS = {
    "zero_byte": "the file is empty",
    "not_image": "the file begins as no image does",
    "unsupported": "an image of a format that is not read: JPEG, PNG, GIF, BMP and WebP are",
    "truncated": "the end of the file is missing",
    "decode_error": "the file begins as an image and goes on as none",
    "too_many_pixels": "more pixels than are decoded (89 million), or a file larger than 1 GiB",
}
# Transient faults: the file may become readable, so the next run retries it.
FILE_FAULTS = {
    "vanished": "the file is gone",
    "changed": "the file has other bytes by now",
    "permission": "the file may not be read",
    "read_error": "the file could not be read",
}
# Permanent like byte faults: the image kills or blocks the process that works on it.
PROCESS_FAULTS = {
    "crashed": "the process that decoded or inferred it died, with it and alone with it",
    "timeout": "decoding or inferring it took longer than any image may, also alone",
}
MEANINGS = BYTE_FAULTS | FILE_FAULTS | PROCESS_FAULTS
