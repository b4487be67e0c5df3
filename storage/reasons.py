"""Reason codes: why an image cannot be used. A store keeps them and a run counts them.

`vision/pixels/decode.py` raises the byte faults, `storage/source/listing.py` and `workers/jobs/extract.py` the file
faults, and `workers/children/watchdog.py` the process faults. tests/workers/test_reasons.py checks that they agree.
"""

# Permanent faults: the same bytes always fail. A version keeps the code, and no run retries the image unless asked.
BYTE_FAULTS = {
    "zero_byte": "the file is empty",
    "not_image": "the file does not start like an image",
    "unsupported": "the image has an unsupported format; supported are JPEG, PNG, GIF, BMP and WebP",
    "truncated": "the end of the file is missing",
    "decode_error": "the file starts like an image but cannot be decoded",
    "too_many_pixels": "the image has more than 89 million pixels, or the file is larger than 1 GiB",
}
# Transient faults: the file may become readable, so the next run retries it.
FILE_FAULTS = {
    "vanished": "the file no longer exists",
    "changed": "the file changed after it was listed",
    "permission": "there is no permission to read the file",
    "read_error": "the file could not be read",
}
# Permanent like byte faults: the image kills or blocks the process that works on it.
PROCESS_FAULTS = {
    "crashed": "the process that decoded or inferred the image died, also when it processed this image alone",
    "timeout": "decoding or inferring the image exceeded the time limit, also when it was processed alone",
}
MEANINGS = BYTE_FAULTS | FILE_FAULTS | PROCESS_FAULTS
