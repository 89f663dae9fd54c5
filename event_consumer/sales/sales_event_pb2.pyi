from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SalesEvent(_message.Message):
    __slots__ = ("sku", "qty", "price", "ts", "event_id")
    SKU_FIELD_NUMBER: _ClassVar[int]
    QTY_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    TS_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    sku: str
    qty: int
    price: float
    ts: str
    event_id: str
    def __init__(self, sku: _Optional[str] = ..., qty: _Optional[int] = ..., price: _Optional[float] = ..., ts: _Optional[str] = ..., event_id: _Optional[str] = ...) -> None: ...
