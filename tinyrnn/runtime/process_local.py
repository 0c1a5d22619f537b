"""What belongs to one process: a copy of its addresses would point into memory that is another's, or freed."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, SupportsIndex

from tinyrnn.errors import CopyError


class ProcessLocal:
    """Base of what holds addresses: neither `copy` nor `pickle` takes it, nor whatever holds it."""

    instead: ClassVar[str] = "make it anew where it is needed"
    """what to write"""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise CopyError(
            f"a {type(self).__name__} holds compiled code and addresses of this process; it is neither copied nor pickled: "
            f"{self.instead}"
        )

    def __copy__(self) -> Any:
        self.__reduce_ex__(4)

    def __deepcopy__(self, memo: Any) -> Any:
        self.__reduce_ex__(4)
