"""Why an image cannot be used: each reason code that a store keeps or a run counts, and what it means.

`vision/pixels/decode.py` raises the codes of bytes, `storage/source/listing.py` and `workers/jobs/extract.py` those of
files, `workers/children/watchdog.py` those of processes; tests/workers/test_reasons.py compares.
"""

# The same bytes have the same fault for ever: a version keeps it, and no run tries the image again unless told to.
BYTE_FAULTS = {
    "zero_byte": "the file is empty",
    "not_image": "the file begins as no image does",
    "unsupported": "an image of a format that is not read: JPEG, PNG, GIF, BMP and WebP are",
    "truncated": "the end of the file is missing",
    "decode_error": "the file begins as an image and goes on as none",
    "too_many_pixels": "more pixels than are decoded (89 million), or a file larger than 1 GiB",
}
# Another time the file may be readable: the next run tries it again.
FILE_FAULTS = {
    "vanished": "the file is gone",
    "changed": "the file has other bytes by now",
    "permission": "the file may not be read",
    "read_error": "the file could not be read",
}
# Kept like those of bytes: the image ends the process that works on it.
PROCESS_FAULTS = {
    "crashed": "the process that decoded or inferred it died, with it and alone with it",
    "timeout": "decoding or inferring it took longer than any image may, also alone",
}
MEANINGS = BYTE_FAULTS | FILE_FAULTS | PROCESS_FAULTS
