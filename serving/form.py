"""The files of a form, as they arrive. They stay in memory: Starlette's parser writes large ones to a disk, and takes a form
that ends in the middle of a file for one without that file."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.limits import MB, Limits
from serving.refusal import Refusal

MOST_FIELDS = 16  # that are no files; they are ignored


class Form:
    """A form that is being read. Raises Refusal for what is no form, or exceeds a limit."""

    def __init__(self, content_type: str, limits: Limits):
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _invalid("its content type has no boundary")
        self._limits = limits
        self._files: list[tuple[str, bytearray]] = []
        self._num_fields = 0
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._part: bytearray | None = None  # of the file that is being read
        self._is_complete = False
        names = ("on_header_field", "on_header_value", "on_header_end", "on_headers_finished", "on_part_data", "on_end")
        callbacks = {name: getattr(self, f"_{name}") for name in names}
        self._parser = _refusing(lambda each: MultipartParser(each, callbacks), boundary)  # type: ignore[arg-type]

    def add(self, piece: bytes) -> None:
        """Read the next piece of the body."""
        _refusing(self._parser.write, piece)

    def files(self) -> list[tuple[str, bytes]]:
        """Name and bytes of each file, after the last piece. A browser sends one without both for a field without a choice."""
        if not self._is_complete:
            raise _invalid("it ends before its last boundary")
        return [(name, bytes(data)) for name, data in self._files if name or data]

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        options = parse_options_header(self._disposition.decode("latin-1"))[1]
        self._disposition, self._part = b"", None
        if b"filename" not in options:
            self._num_fields += 1
            if self._num_fields > MOST_FIELDS:
                raise _invalid(f"it has more than {MOST_FIELDS} fields that are no files")
            return
        if len(self._files) == self._limits.images:
            raise too_many(self._limits)
        self._part = bytearray()
        self._files.append((options[b"filename"].decode("utf-8", "replace"), self._part))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is None:
            return
        self._part += data[start:end]
        if len(self._part) > self._limits.image_bytes:
            raise too_large("an image", self._limits.image_bytes)

    def _on_end(self) -> None:
        self._is_complete = True


def _refusing(call, given):
    try:
        return call(given)
    except FormParserError as error:
        raise _invalid(str(error)) from None


def _invalid(why: str) -> Refusal:
    return Refusal(422, "invalid_form", f"the form cannot be read: {why}")


def too_large(what: str, limit: int) -> Refusal:
    """The refusal of more bytes than a limit."""
    return Refusal(413, "too_large", f"{what} has more than {limit / MB:g} MB")


def too_many(limits: Limits) -> Refusal:
    """The refusal of more images than a request may have."""
    return Refusal(413, "too_many_images_in_request", f"the request has more than {limits.images} images")
