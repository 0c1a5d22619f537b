"""Objects that belong to one process: copied addresses would point into memory of another object, or freed memory."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, SupportsIndex

from tinyrnn.errors import CopyError


class ProcessLocal:
    """Base class of objects that hold addresses. Copying or pickling one, or what contains it, raises `CopyError`."""

    instead: ClassVar[str] = "make it anew where it is needed"
    """what to write instead of copying"""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise CopyError(
            f"a {type(self).__name__} holds compiled code and addresses of this process; it is neither copied nor pickled: "
            f"{self.instead}"
        )

    def __copy__(self) -> Any:
        self.__reduce_ex__(4)

    def __deepcopy__(self, memo: Any) -> Any:
        self.__reduce_ex__(4)
